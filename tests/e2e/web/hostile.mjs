// A user whose name, path, key comment and home are HTML, quotes, control characters and marks that turn text around.

import { api, assert, everyLook, run, visit } from "./lib.mjs";

await run({
  "harmless in the list": () =>
    visit({}, async (page) => {
      await page.goto("/web/users");
      const name = page.locator(".main-cell a");
      assert.equal(await name.locator("img").count(), 0);
      assert.equal(await name.innerText(), `<img src=x onerror=alert(1)>"'&U+202EU+0007{{ 7*7 }}ü`);
      assert.equal(await name.locator("bdi").count(), 1);
      await page.getByText("1 directory differs").click();
      await everyLook(page, "hostile-list");
      await page.locator(".pick").check();
      await page.locator(".bulk").getByRole("button", { name: "Delete" }).click();
      await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
      await page.goto(`/web/users?q=${encodeURIComponent("\"><script>alert(1)</script>\u202e")}`);
      await page.getByText("No username contains").waitFor();
      assert.equal(await page.locator(".empty script").count(), 0);
    }),

  "harmless in the form, and unchanged by it": () =>
    visit({}, async (page) => {
      const [user] = await api("GET", "user");
      await page.goto(`/web/user/${user.id}`);
      assert.match(await page.locator("#keys").innerText(), /<img src=x onerror=alert\(1\)>"'&U\+202E\s*U\+0007/);
      await everyLook(page, "hostile-form");
      await page.getByRole("button", { name: "Delete user" }).click();
      await page.getByRole("dialog").getByText("Delete <img src=x").waitFor();
      await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
      // The list of keys as a script draws it.
      await page.getByLabel("Space").fill("1 KB");
      await page.waitForResponse("**/web/user/check");
      await page.waitForTimeout(100);
      assert.match(await page.locator("#keys").innerText(), /<img src=x onerror=alert\(1\)>"'&U\+202EU\+0007/);
      assert.equal(await page.locator("#keys img").count(), 0);
      await page.getByLabel("Space").fill("0");
      await page.getByRole("button", { name: "Save" }).click();
      await page.getByText("was saved.").waitFor();
    }),
});
