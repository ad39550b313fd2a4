// The dashboard and the connections, while anna uploads over the old scp (a known size), bernd downloads, clara
// uploads over SFTP (an unknown size), and somebody with names that mean harm holds a file open. All are slow enough
// to last until they are disconnected.

import { NARROW, WIDE, api, assert, everyLook, run, shot, visit } from "./lib.mjs";

/// Waits until `read()` gives something larger than `before`.
async function grows(read, before, what) {
  for (let look = 0; look < 200; look += 1) {
    const now = Number(await read());
    if (now > before) return now;
    await new Promise((done) => setTimeout(done, 100));
  }
  assert.fail(`${what} does not grow beyond ${before}`);
}

async function isLive(page) {
  await page.locator("#live-status", { hasText: "Live" }).waitFor();
}

const row = (page, name) => page.locator("tbody tr", { hasText: name });

await run({
  "the dashboard follows what moves": () =>
    visit({}, async (page) => {
      await page.goto("/web/dashboard");
      assert.equal(await page.title(), "Tidegate - Dashboard");
      await isLive(page);
      for (const label of ["Upload of /from-anna.bin", "Download of /for-bernd.bin"]) {
        const bar = page.locator("#moving").getByLabel(label, { exact: true });
        const first = await grows(() => bar.getAttribute("value"), 0, label);
        await grows(() => bar.getAttribute("value"), first, label);
        assert.equal(await bar.getAttribute("max"), "60000000");
      }
      const unknown = page.locator("#moving li", { hasText: "/from-clara.bin" });
      assert.equal(await unknown.locator("progress").getAttribute("value"), null);
      await page.locator("#tiles", { hasText: /Upload\s*[\d.]+ KB\/s/ }).waitFor();
      // The chart takes in a point, and what somebody opened stays open.
      await page.getByText("The last hour in figures").click();
      await page.locator("#throughput .line.up[d*='L358'], #throughput .line.up[d*='L359 1']").first().waitFor();
      const path = () => page.locator("#throughput .line.up").getAttribute("d");
      const before = await path();
      await page.waitForFunction(
        (old) => document.querySelector("#throughput .line.up").getAttribute("d") !== old,
        before,
        { timeout: 30_000 },
      );
      assert.equal(await page.locator("#figures").getAttribute("open"), "");
      await page.getByText("The last hour in figures").click();
      await page.getByRole("link", { name: "dora" }).waitFor();
      await page.getByLabel("Quota of dora: 90 % used").waitFor();
      await page.evaluate(() => scrollTo(0, 0));
      await everyLook(page, "dashboard");
      await page.getByRole("button", { name: "Pause" }).click();
      await page.locator("#live-status", { hasText: "Paused" }).waitFor();
      const bar = page.locator("#moving").getByLabel("Upload of /from-anna.bin");
      const still = await bar.getAttribute("value");
      await page.waitForTimeout(2500);
      assert.equal(await bar.getAttribute("value"), still, "paused is paused");
      await page.getByRole("button", { name: "Pause" }).click();
      await grows(() => bar.getAttribute("value"), Number(still), "what was paused");
    }),

  "names from elsewhere are only text": () =>
    visit({}, async (page) => {
      page.on("dialog", (dialog) => assert.fail(`a script ran: ${dialog.message()}`));
      for (const address of ["/web/connections", "/web/dashboard"]) {
        await page.goto(address);
        await isLive(page);
        await page.waitForTimeout(1500);
        const text = await page.locator("main").innerText();
        assert.ok(text.includes("<img src=x onerror=alert(1)>"), text);
        assert.ok(text.includes("U+202E"), text);
        assert.ok(text.includes("<script>alert(4)<"), text);
        assert.doesNotMatch(await page.locator("main").innerHTML(), /[\u202e\u2066\u200f\u009b\u001b]/);
        assert.equal(await page.locator("main img, main script, main svg[onload]").count(), 0);
      }
      await page.goto("/web/connections");
      const client = await page.locator(".client-name").allInnerTexts();
      assert.ok(client.some((one) => one.includes("<svg_onload=alert(3)>")), client.join());
      const button = row(page, "<img src=x").getByRole("button");
      await button.click();
      await page.getByRole("dialog").getByText("<img src=x onerror=alert(1)>").waitFor();
      assert.equal(await page.locator("dialog img").count(), 0);
      await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
      await shot(page, "connections-hostile");
    }),

  "disconnecting asks first": () =>
    visit({}, async (page) => {
      await page.goto("/web/connections");
      assert.equal(await page.title(), "Tidegate - Connections");
      await isLive(page);
      const bar = page.getByLabel("Upload of /from-anna.bin");
      const button = row(page, "anna").getByRole("button", { name: /Disconnect/ });
      await button.focus();
      const first = await grows(() => bar.getAttribute("value"), 0, "the bar");
      await grows(() => bar.getAttribute("value"), first, "the bar");
      assert.equal(await button.evaluate((one) => one === document.activeElement), true, "focus stays");
      await row(page, "anna").getByText(/^\d\d:\d\d$/).first().waitFor();
      await everyLook(page, "connections");
      await button.click();
      await page.getByRole("dialog").waitFor();
      await shot(page, "connections-disconnect", false);
      await page.keyboard.press("Escape");
      assert.equal((await api("GET", "connection")).filter((one) => one.username === "anna").length, 1);
      await button.click();
      await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
      await page.getByText("The connection was closed.").waitFor();
      await row(page, "anna").waitFor({ state: "detached" });
      assert.equal((await api("GET", "connection")).filter((one) => one.username === "anna").length, 0);
    }),

  "a connection that ends leaves the page by itself": () =>
    visit({}, async (page) => {
      await page.goto("/web/connections");
      await isLive(page);
      await row(page, "clara").waitFor();
      const clara = (await api("GET", "connection")).find((one) => one.username === "clara");
      await row(page, "clara").getByRole("button", { name: /Disconnect/ }).click();
      await page.getByRole("dialog").waitFor();
      await api("DELETE", `connection/${clara.connection_id}`);
      await row(page, "clara").waitFor({ state: "detached" });
      // The question that was open about it does no harm.
      await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
      await page.getByRole("dialog").waitFor({ state: "hidden" });
      await isLive(page);
    }),

  "without scripts": () =>
    visit({ javascript: false, size: NARROW }, async (page) => {
      await page.goto("/web/dashboard");
      await page.getByRole("link", { name: "Reload" }).waitFor();
      await page.locator("#moving", { hasText: "/for-bernd.bin" }).waitFor();
      await page.setViewportSize(WIDE);
      await page.goto("/web/connections");
      await page.getByRole("link", { name: "Reload" }).click();
      await row(page, "bernd").getByText(/^\d\d:\d\d$/).first().waitFor();
      await row(page, "bernd").getByRole("button", { name: /Disconnect/ }).click();
      await page.getByRole("heading", { name: "Disconnect bernd?" }).waitFor();
      await shot(page, "disconnect-without-scripts");
      await page.getByRole("link", { name: "Cancel" }).click();
      await row(page, "bernd").getByRole("button", { name: /Disconnect/ }).click();
      await page.getByRole("button", { name: "Disconnect" }).click();
      await page.getByText("The connection was closed.").waitFor();
      assert.equal(await row(page, "bernd").count(), 0);
    }),

  "nobody is left": () =>
    visit({}, async (page) => {
      for (const one of await api("GET", "connection")) await api("DELETE", `connection/${one.connection_id}`);
      await page.goto("/web/connections");
      await page.getByRole("heading", { name: "No user connected" }).waitFor();
      await everyLook(page, "connections-none");
    }),
});
