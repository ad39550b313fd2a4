// Signing in and out, with the administrator root and the password secret.

import { NARROW, api, assert, everyLook, run, visit } from "./lib.mjs";

async function signIn(page, password = "secret") {
  await page.getByLabel("Name").fill("root");
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}

await run({
  "in, at work, and out": () =>
    visit({ expected: ["401"] }, async (page) => {
      await page.goto("/web/user");
      assert.match(page.url(), /\/web\/login/);
      await everyLook(page, "sign-in");
      await signIn(page, "wrong");
      await page.getByRole("alert").waitFor();
      assert.equal(await page.getByLabel("Name").inputValue(), "root");
      await everyLook(page, "sign-in-refused");
      await signIn(page);
      await page.waitForURL(/\/web\/user$/);
      await page.getByLabel("Username").fill("anna");
      await page.getByLabel("Password", { exact: true }).fill("secret");
      await page.getByLabel("Home directory").fill("anna");
      await page.locator("#home_dir-error", { hasText: "absolute" }).waitFor();
      await page.getByLabel("Home directory").fill("/srv/tidegate-test/anna");
      await page.getByRole("button", { name: "Add user" }).click();
      await page.getByText("User anna was added.").waitFor();
      await everyLook(page, "users-signed-in");
      await page.getByRole("checkbox", { name: "Select anna" }).check();
      await page.getByRole("button", { name: "Disable" }).click();
      await page.getByText("Disabled: anna.").waitFor();
      assert.equal((await api("GET", "user"))[0].status, 0);
      await page.getByRole("button", { name: "Sign out" }).click();
      await page.waitForURL(/\/web\/login/);
      await page.goto("/web/users");
      assert.match(page.url(), /\/web\/login/);
    }),

  "without scripts": () =>
    visit({ javascript: false, size: NARROW, expected: ["401"] }, async (page) => {
      await page.goto("/web/users?q=an");
      await signIn(page);
      await page.waitForURL(/\/web\/users\?q=an$/);
      await page.getByRole("checkbox", { name: "Select anna" }).check();
      await page.getByRole("button", { name: "Enable" }).click();
      await page.getByText("Enabled: anna.").waitFor();
      await page.getByRole("button", { name: "Sign out" }).click();
      await page.waitForURL(/\/web\/login/);
    }),
});
