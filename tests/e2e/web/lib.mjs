// The browser under the tests' control. A script says what it looks at and does; this file makes sure that whatever
// it does, nothing leaves the server, nothing violates the content security policy, no script fails, no page is
// wider than its window, and axe finds nothing.
//
//   TIDEGATE_URL          the server, such as http://127.0.0.1:8080
//   TIDEGATE_WEB_MODULES  the directory whose node_modules has playwright-core and axe-core
//   TIDEGATE_SCREENSHOTS  where pictures go
//   TIDEGATE_CHROMIUM     the browser; Debian's, unless told otherwise

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import { join } from "node:path";

const modules = required("TIDEGATE_WEB_MODULES");
const load = createRequire(join(modules, "package.json"));
const { chromium } = load("playwright-core");
const axe = load("axe-core");

export { assert };
export const url = required("TIDEGATE_URL");
const screenshots = process.env.TIDEGATE_SCREENSHOTS ?? "target/screenshots";
mkdirSync(screenshots, { recursive: true });

export const WIDE = { width: 1360, height: 900 };
export const TABLET = { width: 768, height: 1024 };
export const NARROW = { width: 360, height: 780 };

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: the tests of package tidegate-e2e set it`);
  return value;
}

let browser = null;

/// Starts the browser, runs every part in order, and ends with 1 if one fails.
export async function run(parts) {
  browser = await chromium.launch({
    executablePath: process.env.TIDEGATE_CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--font-render-hinting=none"],
  });
  let failed = 0;
  const only = process.env.TIDEGATE_ONLY; // A part of the name of a part, while working on it.
  for (const [name, part] of Object.entries(parts).filter(([name]) => !only || name.includes(only))) {
    const started = Date.now();
    try {
      await part();
      console.log(`ok      ${name} (${Date.now() - started} ms)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${name}\n${error.stack}`);
    }
  }
  await browser.close();
  process.exitCode = failed ? 1 : 0;
}

/// Opens a window, lets `work(page, context)` use it, and fails if anything went wrong on the way.
/// Options: javascript (true), dark (false), size (WIDE), expected: texts of console errors that are meant to be.
export async function visit(options, work) {
  const context = await browser.newContext({
    baseURL: url,
    javaScriptEnabled: options.javascript ?? true,
    colorScheme: options.dark ? "dark" : "light",
    viewport: options.size ?? WIDE,
    reducedMotion: "reduce",
    storageState: options.state,
    ignoreHTTPSErrors: true,
  });
  context.setDefaultTimeout(10_000);
  const wrong = [];
  const expected = (text) => (options.expected ?? []).some((part) => text.includes(part));
  const watch = (page) => {
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type()) && !expected(message.text())) {
        wrong.push(`console ${message.type()}: ${message.text()}`);
      }
    });
    page.on("pageerror", (error) => wrong.push(`script failed: ${error.message}`));
    page.on("requestfailed", (request) => {
      const reason = request.failure()?.errorText ?? "";
      // A page that is left gives up what it was waiting for.
      if (!reason.includes("ERR_ABORTED")) wrong.push(`request failed: ${request.url()} ${reason}`);
    });
    page.on("request", (request) => {
      const to = request.url();
      if (!to.startsWith(`${url}/`) && !to.startsWith("data:") && !to.startsWith("about:")) {
        wrong.push(`leaves the server: ${to}`);
      }
    });
  };
  context.on("page", watch);
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
    });
  });
  const page = await context.newPage();
  try {
    await work(page, context);
    assert.deepEqual(wrong, [], "the browser complained");
  } catch (error) {
    await page.screenshot({ path: join(screenshots, "failed.png") }).catch(() => {});
    if (wrong.length) error.message += `\nThe browser complained:\n${wrong.join("\n")}`;
    throw error;
  } finally {
    await context.close();
  }
}

/// Saves a picture of the whole page, or of what is seen of it.
export async function shot(page, name, whole = true) {
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: whole });
}

/// Fails if axe finds anything (it needs a page with scripts), or if the page is wider than its window.
export async function accessible(page, name) {
  if (!(await page.evaluate("'axe' in window"))) await page.evaluate(axe.source);
  const found = await page.evaluate(() =>
    window.axe.run(document, { resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
  );
  const told = found.violations.map(
    (violation) =>
      `${violation.id} (${violation.help}): ${violation.nodes.map((node) => `${node.html} ${node.failureSummary}`).join(" | ")}`,
  );
  assert.deepEqual(told, [], `axe on ${name}`);
  const wide = await page.evaluate(() => {
    const room = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= room) return [];
    return Array.from(document.querySelectorAll("body *"))
      .filter((element) => element.getBoundingClientRect().right > room + 1)
      .slice(0, 5)
      .map((element) => element.outerHTML.slice(0, 120));
  });
  assert.deepEqual(wide, [], `${name} is wider than its window`);
}

/// The page as it is now, in light and dark, wide, half as wide and narrow: pictures, axe, width.
export async function everyLook(page, name) {
  for (const [size, viewport] of [["wide", WIDE], ["tablet", TABLET], ["narrow", NARROW]]) {
    await page.setViewportSize(viewport);
    for (const theme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme: theme });
      await page.waitForTimeout(50); // The media query's event comes a frame later.
      await shot(page, `${name}-${size}-${theme}`);
      await accessible(page, `${name}, ${size}, ${theme}`);
    }
  }
  await page.setViewportSize(WIDE);
  await page.emulateMedia({ colorScheme: "light" });
}

/// Asks the REST API, as a program would.
export async function api(method, path, body) {
  const headers = { "content-type": "application/json" };
  if (process.env.TIDEGATE_BASIC) headers.authorization = `Basic ${btoa(process.env.TIDEGATE_BASIC)}`;
  const answer = await fetch(`${url}/api/v1/${path}`, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return JSON.parse(text);
}
