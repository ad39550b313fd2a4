//! Runs a script of `tests/e2e/web` in Debian's Chromium against a server. What the scripts share is `lib.mjs`.

use std::path::{Path, PathBuf};

use crate::process::Tool;
use crate::server::TestServer;

/// The directory that a test program was built into: `target`, unless cargo was told otherwise.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its own file");
    test.ancestors().nth(3).expect("tests run from target/<profile>/deps").to_owned()
}

/// A script of `tests/e2e/web`. Pictures go to `target/screenshots`.
///
/// # Panics
/// When the browser or the modules are missing, with what to do about it.
#[must_use]
pub fn browse(server: &TestServer, script: &str) -> Tool {
    let chromium = std::env::var_os("TIDEGATE_CHROMIUM").map_or("/usr/bin/chromium".into(), PathBuf::from);
    assert!(
        chromium.is_file(),
        "{} does not exist: this test needs the package `chromium` (scripts/test installs it)",
        chromium.display()
    );
    let modules = target().join("e2e-web");
    assert!(
        modules.join("node_modules/playwright-core").is_dir(),
        "{} has no playwright-core: run scripts/test, or npm ci there with tests/e2e/web/package*.json",
        modules.display()
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("web").join(script);
    Tool::new("node", "nodejs")
        .arg(file)
        .env("TIDEGATE_URL", format!("http://127.0.0.1:{}", server.http_port))
        .env("TIDEGATE_WEB_MODULES", modules)
        .env("TIDEGATE_SCREENSHOTS", target().join("screenshots"))
        .env("TIDEGATE_CHROMIUM", chromium)
        .dir(&server.work())
        .within(300)
}
