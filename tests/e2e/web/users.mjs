// The list of users: sixty of them, user00 to user59, every sixth inactive.

import { WIDE, NARROW, accessible, api, assert, everyLook, run, shot, visit } from "./lib.mjs";

const names = (page) => page.locator(".users-table .main-cell a").allTextContents();

await run({
  "the description of the API fits its window": () =>
    visit({}, async (page) => {
      await page.goto("/api/v1/docs");
      assert.equal(await page.title(), "Tidegate - REST API");
      await everyLook(page, "api");
    }),

  "every look of the list": () =>
    visit({}, async (page) => {
      await page.goto("/web/users");
      assert.equal(await page.title(), "Tidegate - Users");
      assert.equal((await names(page)).length, 25);
      await everyLook(page, "users");
      await page.goto("/web/users?q=nobody-is-called-this");
      await page.getByText("No user matches").waitFor();
      await everyLook(page, "users-none-found");
    }),

  "search as you type, and the address follows": () =>
    visit({}, async (page) => {
      await page.goto("/web/users");
      await page.getByRole("searchbox").pressSequentially("USER5");
      await page.waitForFunction(() => document.querySelectorAll(".users-table tbody tr").length === 10);
      assert.ok((await names(page)).every((name) => name.startsWith("user5")));
      await page.waitForURL(/q=USER5/);
      assert.ok(await page.getByRole("searchbox").evaluate((box) => box === document.activeElement));
      await page.getByLabel("Status").selectOption("inactive");
      await page.waitForFunction(() => document.querySelectorAll(".users-table tbody tr").length === 2);
      assert.deepEqual(await names(page), ["user52", "user58"]);
      await page.reload();
      assert.deepEqual(await names(page), ["user52", "user58"]);
      await page.goBack();
      await page.waitForFunction(() => document.querySelectorAll(".users-table tbody tr").length === 10);
    }),

  "order and pages": () =>
    visit({}, async (page) => {
      await page.goto("/web/users");
      await page.getByRole("link", { name: "Username" }).click();
      await page.locator('th[aria-sort="descending"]').waitFor();
      assert.equal((await names(page))[0], "user59");
      await page.getByRole("link", { name: "Next page" }).click();
      await page.getByText("26–50 of 60").waitFor();
      await page.getByLabel("Users per page").selectOption("100");
      await page.getByText("1–60 of 60").waitFor();
      await page.goto("/web/users?size=10&page=6");
      assert.equal((await names(page))[0], "user50");
    }),

  "several at once": () =>
    visit({}, async (page) => {
      await page.goto("/web/users?q=user1&size=10");
      const bulk = page.getByRole("group", { name: "Actions for the selected users" });
      assert.equal(await bulk.isVisible(), false);
      await page.locator("#pick-all").check();
      await page.getByText("10 users selected").waitFor();
      await page.setViewportSize(WIDE);
      await shot(page, "users-picked-wide-light");
      await accessible(page, "users picked");
      await bulk.getByRole("button", { name: "Disable" }).click();
      await page.getByText("Disabled: 10 users.").waitFor();
      assert.equal(await page.locator(".badge.off").count(), 10);
      assert.match(page.url(), /q=user1&size=10$/);
      await page.reload();
      assert.equal(await page.getByText("Disabled: 10 users.").count(), 0, "a notice is said once");
      await page.locator("#pick-all").check();
      await bulk.getByRole("button", { name: "Enable" }).click();
      await page.getByText("Enabled: 10 users.").waitFor();
      assert.equal(await page.locator(".badge.ok").count(), 10);
      await page.getByRole("checkbox", { name: "Select user10" }).check();
      await page.getByText("1 user selected").waitFor();
      await bulk.getByRole("button", { name: "Scan quota" }).click();
      await page.getByText("Quota scan started: user10.").waitFor();
    }),

  "delete asks in a dialog": () =>
    visit({}, async (page) => {
      await page.goto("/web/users?q=user0&size=10");
      await page.getByRole("checkbox", { name: "Select user03" }).check();
      await page.getByRole("checkbox", { name: "Select user04" }).check();
      const press = () => page.locator(".bulk").getByRole("button", { name: "Delete" }).click();
      await press();
      const dialog = page.getByRole("dialog");
      await dialog.getByText("Delete 2 users?").waitFor();
      await page.emulateMedia({ colorScheme: "dark" });
      await shot(page, "users-dialog-wide-dark", false);
      await accessible(page, "dialog");
      await page.emulateMedia({ colorScheme: "light" });
      await page.keyboard.press("Escape");
      assert.equal(await dialog.count(), 0);
      assert.equal((await api("GET", "user?username=user03")).length, 1);
      await press();
      await dialog.getByRole("button", { name: "Delete" }).click();
      await page.getByText("Deleted: 2 users.").waitFor();
      assert.equal((await api("GET", "user?username=user03")).length, 0);
      assert.equal((await names(page)).length, 8);
    }),

  "the same without scripts": () =>
    visit({ javascript: false, size: NARROW }, async (page) => {
      await page.goto("/web/users");
      await page.getByRole("searchbox").fill("user2");
      await page.getByRole("button", { name: "Search" }).click();
      assert.equal((await names(page)).length, 10);
      await shot(page, "users-no-script-narrow-light");
      await page.getByRole("button", { name: "Disable" }).click();
      await page.getByText("Tick the users first").waitFor();
      await page.goto("/web/users?q=user2");
      await page.getByRole("checkbox", { name: "Select user20" }).check();
      await page.getByRole("button", { name: "Disable" }).click();
      await page.getByText("Disabled: user20.").waitFor();
      await page.getByRole("checkbox", { name: "Select user21" }).check();
      await page.getByRole("button", { name: "Delete" }).click();
      await page.getByRole("heading", { name: "Delete this user?" }).waitFor();
      await shot(page, "delete-no-script-narrow-light");
      await page.getByRole("link", { name: "Cancel" }).click();
      assert.match(page.url(), /q=user2$/);
      await page.getByRole("checkbox", { name: "Select user21" }).check();
      await page.getByRole("button", { name: "Delete" }).click();
      await page.getByRole("button", { name: "Delete" }).click();
      await page.getByText("Deleted: user21.").waitFor();
      assert.equal((await api("GET", "user?username=user21")).length, 0);
    }),

  "the page that asks": () =>
    visit({}, async (page) => {
      await page.goto("/web/users?q=user22");
      await page.getByRole("checkbox", { name: "Select user22" }).check();
      // As if the dialog were not there: axe itself needs scripts.
      const button = page.locator(".bulk").getByRole("button", { name: "Delete" });
      await button.evaluate((element) => (element.dataset.confirmed = "yes"));
      await button.click();
      await page.getByRole("heading", { name: "Delete this user?" }).waitFor();
      await everyLook(page, "delete");
    }),

  "keyboard alone": () =>
    visit({}, async (page) => {
      await page.goto("/web/users?q=user33");
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
      await page.keyboard.press("Enter");
      assert.equal(await page.evaluate(() => document.activeElement.id), "main");
      await page.getByRole("checkbox", { name: "Select user33" }).focus();
      await page.keyboard.press("Space");
      await page.getByText("1 user selected").waitFor();
      await page.getByRole("link", { name: "user33", exact: true }).focus();
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: "user33" }).waitFor();
    }),

  "the theme that was chosen stays": () =>
    visit({}, async (page) => {
      await page.goto("/web/users");
      const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
      const light = await ground();
      await page.getByRole("button", { name: "Dark theme" }).click();
      const dark = await ground();
      assert.notEqual(dark, light);
      await page.goto("/web/user");
      assert.equal(await ground(), dark);
      assert.equal(await page.getByRole("button", { name: "Dark theme" }).getAttribute("aria-pressed"), "true");
    }),

  "what went wrong": () =>
    visit({ expected: ["400", "404"] }, async (page) => {
      for (const [path, title] of [["/web/user/x", "Bad request"], ["/web/user/99999", "Not found"]]) {
        await page.goto(path);
        assert.equal(await page.title(), `Tidegate - ${title}`);
        await everyLook(page, `message-${title.toLowerCase().replace(" ", "-")}`);
      }
    }),

  "first paint": () =>
    visit({}, async (page) => {
      await page.goto("/web/users");
      const paints = [];
      for (let round = 0; round < 5; round += 1) {
        await page.reload();
        paints.push(
          await page.evaluate(
            () =>
              new Promise((found) => {
                new PerformanceObserver((list) => found(list.getEntries()[0].startTime)).observe({
                  type: "paint",
                  buffered: true,
                });
              }),
          ),
        );
      }
      console.log(`first paint after ${paints.map((ms) => `${Math.round(ms)} ms`).join(", ")}`);
    }),
});
