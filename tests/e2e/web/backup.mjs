// Backup and restore by the administrator root, whose password is secret, with the users anna and bernd. TIDEGATE_DUMP is a dump that changes anna's sessions and adds
// clara; TIDEGATE_BAD_DUMP has a user that is not valid; TIDEGATE_NO_DUMP is something else.

import { assert, api, everyLook, run, shot, visit } from "./lib.mjs";

const users = async () => Object.fromEntries((await api("GET", "user")).map((user) => [user.username, user]));

async function choose(page, file) {
  await page.goto("/web/backup");
  await page.getByLabel("Dump").setInputFiles(file);
  await page.getByRole("button", { name: "Look at it" }).click();
}

let state;

await run({
  "the administrator signs in": () =>
    visit({}, async (page, context) => {
      await page.goto("/web/backup");
      await page.getByLabel("Name").fill("root");
      await page.getByLabel("Password").fill("secret");
      await page.getByRole("button", { name: "Sign in" }).click();
      await page.waitForURL(/\/web\/backup$/);
      state = await context.storageState();
      // Forms need the token of the session, the one that sends a file as well.
      const dump = { name: "dump.json", mimeType: "application/json", buffer: Buffer.from("{}") };
      for (const form of [{ _csrf: "wrong", file: dump }, { file: dump, _csrf: "late" }]) {
        assert.equal((await page.request.post("/web/backup/upload", { multipart: form })).status(), 403);
      }
      assert.equal((await page.request.post("/web/backup/save", { form: { name: "x" } })).status(), 403);
    }),

  "a backup is saved and listed": () =>
    visit({ state }, async (page) => {
      await page.goto("/web/backup");
      assert.equal(await page.title(), "Tidegate - Backup");
      await page.getByRole("heading", { name: "No backup yet" }).waitFor();
      await everyLook(page, "backup-none");
      assert.match(await page.getByLabel("File name").inputValue(), /^backup-\d{8}-\d{6}\.json$/);
      await page.getByLabel("File name").fill("../outside.json");
      await page.getByRole("button", { name: "Save a backup" }).click();
      await page.locator("#name-error", { hasText: ".." }).waitFor();
      assert.equal(await page.getByLabel("File name").inputValue(), "../outside.json");
      await everyLook(page, "backup-refused");
      await page.getByLabel("File name").fill(".hidden.json");
      await page.getByRole("button", { name: "Save a backup" }).click();
      await page.locator("#name-error", { hasText: "begin with a dot" }).waitFor();
      await page.getByLabel("File name").fill("before <b>the</b> change & more.json");
      await page.getByRole("button", { name: "Save a backup" }).click();
      await page.getByRole("status").getByText("before <b>the</b> change & more.json was saved").waitFor();
      await everyLook(page, "backup");
    }),

  "what was saved changes nothing": () =>
    visit({ state }, async (page) => {
      await page.goto("/web/backup");
      await page.getByRole("link", { name: /Restore/ }).click();
      assert.equal(await page.title(), "Tidegate - Restore");
      const figure = (name) =>
        page.locator(".figure", { has: page.getByText(name, { exact: true }) }).locator("dd").innerText();
      assert.deepEqual([await figure("New"), await figure("Changed"), await figure("Unchanged")], ["0", "0", "2"]);
    }),

  "a dump from elsewhere is looked at, then restored": () =>
    visit({ state }, async (page) => {
      await choose(page, process.env.TIDEGATE_DUMP);
      await page.waitForURL(/\/web\/backup\/restore\?file=uploaded-/);
      await page.locator("section", { hasText: "Changed" }).getByText("sessions").waitFor();
      await page.locator("section", { hasText: "New" }).getByText("clara").waitFor();
      await everyLook(page, "restore");
      assert.equal((await users()).clara, undefined, "a look changes nothing");
      await page.getByLabel("Of users with a quota").check();
      await page.getByRole("button", { name: "Restore", exact: true }).click();
      await page.getByRole("dialog").waitFor();
      await shot(page, "restore-question", false);
      await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
      assert.equal((await users()).clara, undefined);
      await page.getByRole("button", { name: "Restore", exact: true }).click();
      await page.getByRole("dialog").getByRole("button", { name: "Restore" }).click();
      await page.getByRole("heading", { name: "Restored" }).waitFor();
      await everyLook(page, "restored");
      const now = await users();
      assert.deepEqual([now.anna.max_sessions, now.clara.max_sessions], [7, 0]);
    }),

  "a long restore tells how far it is": () =>
    visit({ state }, async (page) => {
      // Passwords in clear have to be hashed, which takes its time.
      const user = (number) => ({
        username: `many${number}`, status: 1, password: "secret", home_dir: `/srv/many${number}`, permissions: { "/": ["*"] },
      });
      const text = JSON.stringify({ users: Array.from({ length: 25 }, (_, number) => user(number)) });
      await choose(page, { name: "many.json", mimeType: "application/json", buffer: Buffer.from(text) });
      await page.getByRole("button", { name: "Restore", exact: true }).click();
      // While the next page is on its way, nobody but the page itself can tell what it says.
      await page.evaluate(() => {
        const state = document.getElementById("restore-progress");
        new MutationObserver(() => {
          const button = document.querySelector("#restore-form button").getAttribute("aria-disabled");
          sessionStorage.setItem("said", `${state.hidden} ${button} ${state.innerText.trim()}`);
        }).observe(state, { subtree: true, childList: true });
      });
      // It takes seconds, and more where others are at work: a click may wait for the page that it leads to.
      await page.getByRole("dialog").getByRole("button", { name: "Restore" }).click({ timeout: 60_000 });
      await page.getByRole("heading", { name: "Restored" }).waitFor({ timeout: 60_000 });
      const said = await page.evaluate(() => sessionStorage.getItem("said"));
      assert.match(said, /^false true Restored \d+ of 25 users$/);
      assert.ok((await users()).many24);
    }),

  "what cannot be restored is not": () =>
    visit({ state, expected: ["400"] }, async (page) => {
      await choose(page, process.env.TIDEGATE_BAD_DUMP);
      await page.getByText("This dump cannot be restored as it is: one user is not valid.").waitFor();
      assert.equal(await page.getByRole("button", { name: "Restore", exact: true }).count(), 0);
      await everyLook(page, "restore-bad");
      await choose(page, process.env.TIDEGATE_NO_DUMP);
      await page.getByText("is not a dump of users").waitFor();
      assert.equal(await page.title(), "Tidegate - Bad request");
    }),

  "without scripts": () =>
    visit({ state, javascript: false }, async (page) => {
      await api("DELETE", `user/${(await users()).clara.id}`);
      await page.goto("/web/backup");
      await page.getByLabel("File name").fill("plain.json");
      await page.getByRole("button", { name: "Save a backup" }).click();
      await page.getByRole("status").getByText("plain.json was saved").waitFor();
      await choose(page, process.env.TIDEGATE_DUMP);
      await page.getByLabel("Stay as they are").check();
      await page.getByRole("button", { name: "Restore", exact: true }).click();
      await page.getByRole("heading", { name: "Restored" }).waitFor();
      assert.ok((await users()).clara);
    }),
});
