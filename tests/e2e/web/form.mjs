// The form of one user: a user is added, changed and removed, with scripts and without.

import { NARROW, accessible, api, assert, everyLook, run, shot, visit } from "./lib.mjs";

const KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ anna@laptop";
const FINGERPRINT = "SHA256:";
const one = async (name) => (await api("GET", `user?username=${name}`))[0];

await run({
  "nobody yet": () =>
    visit({}, async (page) => {
      await page.goto("/web/users");
      await page.getByText("No users yet").waitFor();
      await everyLook(page, "users-empty");
      await page.getByRole("link", { name: "Add the first user" }).click();
      assert.equal(await page.title(), "Tidegate - Add a new user");
      await everyLook(page, "add");
    }),

  "what is wrong is said while typing and beside its field": () =>
    visit({}, async (page) => {
      await page.goto("/web/user");
      await page.getByLabel("Allowed networks").fill("10.0.0.0/8, 1.2.3");
      await page.locator("#allowed_ip-error", { hasText: "1.2.3" }).waitFor();
      await page.getByLabel("Allowed networks").fill("10.0.0.0/8");
      await page.locator("#allowed_ip-error:empty").waitFor({ state: "attached" });
      await page.getByLabel("Public keys").fill(KEY);
      await page.locator("#keys", { hasText: FINGERPRINT }).waitFor();
      assert.match(await page.locator("#keys").innerText(), /ED25519\s+SHA256:\S+\s+anna@laptop/);
      await page.getByLabel("Username").fill("a/b");
      await page.getByLabel("Space").fill("10 G");
      await page.getByLabel("Home directory").fill("not/absolute");
      await page.getByRole("button", { name: "Add user" }).click();
      await page.getByText("The user was not added: 3 fields need another look.").waitFor();
      assert.match(await page.locator("#quota_size-error").innerText(), /10 GB.*10 GiB/);
      assert.equal(await page.getByLabel("Space").inputValue(), "10 G");
      assert.equal(await page.getByLabel("Public keys").inputValue(), KEY);
      await everyLook(page, "form-errors");
      await page.getByRole("link", { name: "Space" }).click();
      assert.equal(await page.evaluate(() => document.activeElement.id), "quota_size");
      page.on("dialog", (dialog) => dialog.accept());
    }),

  "add with permissions per directory": () =>
    visit({}, async (page) => {
      await page.goto("/web/user");
      await page.getByLabel("Username").fill("anna");
      await page.getByLabel("Password", { exact: true }).fill("secret");
      await page.getByLabel("Home directory").fill("/srv/tidegate-test/anna");
      await page.getByLabel("Expiration").fill("2031-02-03");
      await page.getByLabel("Space").fill("1.5 TiB");
      await page.locator("#permissions").getByLabel("Permissions").selectOption("read");
      assert.equal(await page.locator("#permissions .perms input:checked").count(), 2);
      await page.locator("#permissions").getByLabel("Change modes").check();
      assert.equal(await page.locator("#permissions .preset").inputValue(), "");
      await page.getByRole("button", { name: "Add directory" }).click();
      await page.keyboard.type("/incoming");
      await page.locator("#dir-0 .preset").selectOption("drop");
      await page.getByRole("button", { name: "Add directory" }).click();
      await page.keyboard.type("relative");
      await page.locator("#dir-1-error", { hasText: "must start with /" }).waitFor();
      await shot(page, "form-permissions-wide-light");
      await page.locator("#dir-1").getByRole("button", { name: "Remove" }).click();
      await page.getByRole("button", { name: "Add user" }).click();
      await page.getByText("User anna was added.").waitFor();
      const anna = await one("anna");
      assert.deepEqual(anna.permissions, { "/": ["list", "download", "chmod"], "/incoming": ["upload", "create_dirs"] });
      assert.equal(anna.quota_size, 1.5 * 2 ** 40);
      assert.equal(anna.expiration_date, Date.UTC(2031, 1, 3, 23, 59, 59, 999));
    }),

  "saving without a change changes nothing": () =>
    visit({}, async (page) => {
      const before = await one("anna");
      await page.goto(`/web/user/${before.id}`);
      assert.equal(await page.locator("#save-state").innerText(), "");
      await everyLook(page, "edit");
      await page.getByRole("button", { name: "Save" }).click();
      await page.getByText("User anna was saved.").waitFor();
      assert.deepEqual(await one("anna"), before);
    }),

  "what was typed is not lost by accident": () =>
    visit({}, async (page) => {
      const { id } = await one("anna");
      await page.goto(`/web/user/${id}`);
      await page.getByLabel("Files", { exact: true }).fill("7");
      assert.equal(await page.locator("#save-state").innerText(), "Unsaved changes");
      const asked = [];
      page.once("dialog", (dialog) => {
        asked.push(dialog.type());
        return dialog.dismiss();
      });
      await page.getByRole("link", { name: "Cancel" }).click();
      await page.waitForTimeout(200);
      assert.deepEqual(asked, ["beforeunload"]);
      assert.equal(await page.getByLabel("Files", { exact: true }).inputValue(), "7");
      // A single letter of the form brings it back to where it was.
      await page.getByLabel("Files", { exact: true }).fill("0");
      assert.equal(await page.locator("#save-state").innerText(), "");
      await page.getByRole("link", { name: "Cancel" }).click();
      await page.waitForURL(/\/web\/users$/);
    }),

  "keys come and go with a warning": () =>
    visit({}, async (page) => {
      const { id } = await one("anna");
      await page.goto(`/web/user/${id}`);
      await page.getByLabel("Public keys").fill(`${KEY}\n`);
      await page.getByRole("button", { name: "Save" }).click();
      await page.getByText("User anna was saved.").waitFor();
      assert.deepEqual((await one("anna")).public_keys, [KEY]);
      await page.goto(`/web/user/${id}`);
      await page.getByLabel("Public keys").fill("");
      await page.getByText("This removes the last public key").waitFor();
      await page.getByLabel("Remove the password").check();
      await page.getByRole("button", { name: "Save" }).click();
      await page.locator("#password-error", { hasText: "mandatory" }).waitFor();
      await page.getByLabel("Remove the password").uncheck();
      await page.getByRole("button", { name: "Save" }).click();
      await page.getByText("has no public key any more").waitFor();
    }),

  "the same without scripts": () =>
    visit({ javascript: false, size: NARROW }, async (page) => {
      await page.goto("/web/user");
      await page.getByLabel("Username").fill("bert");
      await page.getByLabel("Password", { exact: true }).fill("secret");
      await page.getByRole("button", { name: "Add directory" }).click();
      assert.equal(await page.getByLabel("Username").inputValue(), "bert");
      await page.getByText("Type it again").waitFor();
      await page.getByLabel("Directory", { exact: true }).fill("/in");
      await page.locator("#dir-0-preset").selectOption("drop");
      await page.getByRole("button", { name: "Add directory" }).click();
      assert.equal(await page.getByRole("button", { name: "Remove directory" }).count(), 2);
      await page.locator("#dir-1 .remove-dir").click();
      await page.getByLabel("Username").press("Enter");
      await page.locator("#home_dir-error", { hasText: "mandatory" }).waitFor();
      await shot(page, "form-no-script-narrow-light");
      await page.getByLabel("Home directory").fill("/srv/tidegate-test/bert");
      await page.getByLabel("Password", { exact: true }).fill("secret");
      await page.getByRole("button", { name: "Add user" }).click();
      await page.getByText("User bert was added.").waitFor();
      const bert = await one("bert");
      assert.deepEqual(bert.permissions, { "/": ["*"], "/in": ["upload", "create_dirs"] });
      await page.getByRole("link", { name: "bert" }).click();
      // Without scripts the boxes count, unless a preset is chosen.
      await page.locator("#permissions").getByLabel("Delete").uncheck();
      await page.getByRole("button", { name: "Save" }).click();
      await page.getByText("User bert was saved.").waitFor();
      assert.ok(!(await one("bert")).permissions["/"].includes("delete"));
      await page.goto(`/web/user/${bert.id}`);
      await page.getByRole("button", { name: "Delete user" }).click();
      await page.getByRole("button", { name: "Delete" }).click();
      await page.getByText("Deleted: bert.").waitFor();
    }),

  "delete with confirmation": () =>
    visit({}, async (page) => {
      const { id } = await one("anna");
      await page.goto(`/web/user/${id}`);
      await page.getByRole("button", { name: "Delete user" }).click();
      await page.getByRole("dialog").getByText("Delete anna?").waitFor();
      await accessible(page, "dialog on the form");
      await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
      assert.ok(await one("anna"));
      await page.getByRole("button", { name: "Delete user" }).click();
      await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
      await page.getByText("Deleted: anna.").waitFor();
      assert.equal(await one("anna"), undefined);
    }),
});
