//! The log file: append, rotate by size, delete by count and age, compress.
//!
//! A full file is renamed to `<name>-<UTC time>.<ext>`, for example `sftpgo-2020-01-01T10-20-30.123.log`, and a
//! new one is begun. Old files are cleaned up and compressed by a thread of their own. All calls block; they
//! belong on the writer's thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The time of day; a test hands in its own.
pub(super) type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Owner reads and writes, group reads: lines name users, addresses and paths.
#[cfg(unix)]
const FILE_MODE: u32 = 0o640;
const TIME_FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const COMPRESSED: &str = ".gz";

/// How a log file is kept in bounds.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Bytes at which the file is rotated.
    pub(super) max_bytes: u64,
    /// Rotated files to keep; 0 keeps all.
    pub(super) max_backups: u64,
    /// Days to keep rotated files; 0 keeps them for ever.
    pub(super) max_age_days: u64,
    /// Whether rotated files are compressed.
    pub(super) compress: bool,
}

/// A log file that is rotated.
pub(super) struct RotatingFile {
    path: PathBuf,
    limits: Limits,
    now: Now,
    file: File,
    size: u64,
    cleaner: Option<Cleaner>,
}

struct Cleaner {
    wake: SyncSender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl RotatingFile {
    /// Opens `path` for appending; the file and missing directories are created.
    ///
    /// # Errors
    /// The file cannot be opened, or its directory cannot be made.
    pub(super) fn open(path: &Path, limits: Limits, now: Now) -> io::Result<Self> {
        let (file, size) = open_file(path)?;
        let mut log = Self { path: path.to_owned(), limits, now, file, size, cleaner: None };
        log.clean();
        Ok(log)
    }

    /// Writes whole lines, rotating between lines where the size demands it.
    pub(super) fn write_lines(&mut self, mut lines: &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            let mut fitting = self.fitting(lines);
            if fitting == 0 {
                if self.size > 0 {
                    self.rotate()?;
                    fitting = self.fitting(lines);
                }
                // A line that is larger than a whole file gets one of its own.
                fitting = fitting.max(first_line(lines));
            }
            let (now, later) = lines.split_at(fitting);
            self.file.write_all(now)?;
            self.size += now.len() as u64;
            lines = later;
        }
        Ok(())
    }

    /// Closes and opens the file again, after something else has renamed it.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.size) = open_file(&self.path)?;
        Ok(())
    }

    /// How many bytes of whole lines stay below the limit.
    fn fitting(&self, lines: &[u8]) -> usize {
        let room = self.limits.max_bytes.saturating_sub(self.size).saturating_sub(1);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if lines.len() <= room {
            return lines.len();
        }
        lines[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut at = (self.now)();
        let backup = loop {
            let name = backup_name(&self.path, at);
            let taken = |path: &Path| path.symlink_metadata().is_ok();
            if !taken(&name) && !taken(&with_suffix(&name, COMPRESSED)) {
                break name;
            }
            at += Duration::from_millis(1);
        };
        let old_mode = self.file.metadata().map(|metadata| metadata.permissions());
        std::fs::rename(&self.path, backup)?;
        self.reopen()?;
        if let Ok(mode) = old_mode {
            // The operator may have narrowed or widened it.
            let _ = self.file.set_permissions(mode);
        }
        self.clean();
        Ok(())
    }

    /// Wakes the thread that cleans up, if there is anything it may have to do.
    fn clean(&mut self) {
        if self.limits.max_backups == 0 && self.limits.max_age_days == 0 && !self.limits.compress {
            return;
        }
        if self.cleaner.is_none() {
            let (wake, woken) = sync_channel(1);
            let (path, limits, now) = (self.path.clone(), self.limits.clone(), self.now.clone());
            let thread = std::thread::Builder::new().name("log-cleaner".to_owned());
            match thread.spawn(move || clean_when_woken(&woken, &path, &limits, &now)) {
                Ok(thread) => self.cleaner = Some(Cleaner { wake, thread }),
                Err(error) => {
                    complain(&format!("cannot start the thread that cleans up logs: {error}"));
                    return;
                }
            }
        }
        // Full means that a run is due already.
        if let Some(cleaner) = &self.cleaner
            && let Err(TrySendError::Disconnected(())) = cleaner.wake.try_send(())
        {
            self.cleaner = None;
        }
    }
}

impl Drop for RotatingFile {
    fn drop(&mut self) {
        if let Some(Cleaner { wake, thread }) = self.cleaner.take() {
            drop(wake);
            let _ = thread.join();
        }
    }
}

/// Says on standard error what cannot be said in the log.
pub(super) fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "tidegate: {what}");
}

fn open_file(path: &Path) -> io::Result<(File, u64)> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE_MODE);
    let file = options.open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1)
}

/// `dir/name.ext` → (`name`, `.ext`)
fn stem_and_extension(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|ext| format!(".{}", ext.to_string_lossy())).unwrap_or_default();
    (stem, extension)
}

fn backup_name(path: &Path, at: Timestamp) -> PathBuf {
    let (stem, extension) = stem_and_extension(path);
    let time = at.to_zoned_datetime(TimeZone::UTC).strftime(TIME_FORMAT).to_string();
    path.with_file_name(format!("{stem}-{time}{extension}"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn clean_when_woken(woken: &Receiver<()>, path: &Path, limits: &Limits, now: &Now) {
    while woken.recv().is_ok() {
        if let Err(error) = clean_up(path, limits, now()) {
            complain(&format!("cannot clean up old files of {}: {error}", path.display()));
        }
    }
}

/// Deletes what is too old or too many, then compresses what remains.
fn clean_up(path: &Path, limits: &Limits, now: Timestamp) -> io::Result<()> {
    let mut result = Ok(());
    let oldest = i64::try_from(limits.max_age_days).ok().filter(|days| *days > 0).and_then(|days| {
        now.checked_sub(Duration::from_secs(days.unsigned_abs().saturating_mul(86_400))).ok()
    });
    for (index, (at, backup)) in backups(path)?.into_iter().enumerate() {
        let too_many = limits.max_backups > 0 && index as u64 >= limits.max_backups;
        let is_compressed = backup.extension().is_some_and(|extension| extension == "gz");
        let done = if too_many || oldest.is_some_and(|oldest| at < oldest) {
            std::fs::remove_file(&backup)
        } else if limits.compress && !is_compressed {
            compress(&backup)
        } else {
            Ok(())
        };
        // One file that cannot be handled must not keep the others.
        result = result.and(done);
    }
    result
}

/// The rotated files of a log, newest first.
fn backups(path: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let (stem, extension) = stem_and_extension(path);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let plain = name.strip_suffix(COMPRESSED).unwrap_or(name);
        let time = plain.strip_prefix(&stem).and_then(|rest| rest.strip_prefix('-'));
        let Some(time) = time.and_then(|rest| rest.strip_suffix(extension.as_str())) else { continue };
        let Ok(at) = DateTime::strptime("%Y-%m-%dT%H-%M-%S%.f", time) else { continue };
        if let Ok(at) = TimeZone::UTC.to_timestamp(at) {
            found.push((at, entry.path()));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Replaces `path` by `path.gz`. A half-written file never keeps the final name.
fn compress(path: &Path) -> io::Result<()> {
    let target = with_suffix(path, COMPRESSED);
    let partial = with_suffix(path, ".gz.partial");
    let write = || -> io::Result<()> {
        let mut source = File::open(path)?;
        let (file, _) = {
            let _ = std::fs::remove_file(&partial);
            open_file(&partial)?
        };
        file.set_permissions(source.metadata()?.permissions())?;
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        io::copy(&mut source, &mut encoder)?;
        encoder.finish()?.sync_all()
    };
    let written = write().and_then(|()| std::fs::rename(&partial, &target));
    match written {
        Ok(()) => std::fs::remove_file(path),
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Mutex;

    use super::*;

    /// A directory, and a clock that stands still until it is moved.
    struct Fixture {
        dir: PathBuf,
        clock: Arc<Mutex<Timestamp>>,
    }

    impl Fixture {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("tidegate-rotate-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            let start = "2020-01-01T10:20:30.123Z".parse().unwrap();
            Self { dir, clock: Arc::new(Mutex::new(start)) }
        }

        fn open(&self, limits: Limits) -> RotatingFile {
            let clock = self.clock.clone();
            let now: Now = Arc::new(move || *clock.lock().unwrap());
            RotatingFile::open(&self.dir.join("deep/sftpgo.log"), limits, now).unwrap()
        }

        fn advance(&self, time: Duration) {
            *self.clock.lock().unwrap() += time;
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.join("deep")).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.dir.join("deep").join(name)).unwrap()
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    fn limits(max_bytes: u64) -> Limits {
        Limits { max_bytes, max_backups: 0, max_age_days: 0, compress: false }
    }

    #[test]
    fn a_write_that_would_reach_the_size_begins_a_new_file() {
        let fixture = Fixture::new("size");
        let mut log = fixture.open(limits(10));
        log.write_lines(b"aaaa\n").unwrap();
        log.write_lines(b"bbb\n").unwrap();
        assert_eq!(fixture.names(), ["sftpgo.log"]);
        log.write_lines(b"\n").unwrap();
        assert_eq!(fixture.names(), ["sftpgo-2020-01-01T10-20-30.123.log", "sftpgo.log"]);
        assert_eq!(fixture.text("sftpgo-2020-01-01T10-20-30.123.log"), "aaaa\nbbb\n");
        assert_eq!(fixture.text("sftpgo.log"), "\n");
    }

    #[test]
    fn a_batch_is_split_between_lines_and_names_never_collide() {
        let fixture = Fixture::new("batch");
        let mut log = fixture.open(limits(10));
        log.write_lines(b"aaaa\nbbb\nccccc\nthis line is larger than a file\ndd\n").unwrap();
        let expected = ["aaaa\nbbb\n", "ccccc\n", "this line is larger than a file\n", "dd\n"];
        let names = fixture.names();
        let backups = ["123", "124", "125"].map(|ms| format!("sftpgo-2020-01-01T10-20-30.{ms}.log"));
        assert_eq!(names[..3], backups);
        assert_eq!(names.iter().map(|name| fixture.text(name)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_existing_file_is_continued_and_counted() {
        let fixture = Fixture::new("append");
        fixture.open(limits(10)).write_lines(b"12345678\n").unwrap();
        fixture.open(limits(10)).write_lines(b"x\n").unwrap();
        assert_eq!(fixture.names().len(), 2);
        assert_eq!(fixture.text("sftpgo.log"), "x\n");
    }

    #[test]
    fn old_files_are_deleted_by_count() {
        let fixture = Fixture::new("count");
        let mut log = fixture.open(Limits { max_backups: 2, ..limits(4) });
        for line in [b"1\n\n", b"2\n\n", b"3\n\n", b"4\n\n"] {
            log.write_lines(line).unwrap();
            fixture.advance(Duration::from_secs(1));
        }
        drop(log);
        let kept = ["sftpgo-2020-01-01T10-20-32.123.log", "sftpgo-2020-01-01T10-20-33.123.log", "sftpgo.log"];
        assert_eq!(fixture.names(), kept);
    }

    #[test]
    fn old_files_are_deleted_by_age_and_foreign_files_stay() {
        let fixture = Fixture::new("age");
        let mut log = fixture.open(Limits { max_age_days: 2, ..limits(4) });
        std::fs::write(fixture.dir.join("deep/sftpgo-notes.log"), "mine").unwrap();
        log.write_lines(b"1\n\n").unwrap();
        log.write_lines(b"2\n\n").unwrap();
        fixture.advance(Duration::from_secs(86_400));
        log.write_lines(b"3\n\n").unwrap();
        fixture.advance(Duration::from_secs(86_401));
        log.write_lines(b"4\n\n").unwrap();
        drop(log);
        let kept = [
            "sftpgo-2020-01-02T10-20-30.123.log",
            "sftpgo-2020-01-03T10-20-31.123.log",
            "sftpgo-notes.log",
            "sftpgo.log",
        ];
        assert_eq!(fixture.names(), kept);
    }

    #[test]
    fn rotated_files_are_compressed() {
        let fixture = Fixture::new("gzip");
        let mut log = fixture.open(Limits { compress: true, ..limits(8) });
        log.write_lines(b"first\n").unwrap();
        log.write_lines(b"second\n").unwrap();
        drop(log);
        assert_eq!(fixture.names(), ["sftpgo-2020-01-01T10-20-30.123.log.gz", "sftpgo.log"]);
        let file = File::open(fixture.dir.join("deep/sftpgo-2020-01-01T10-20-30.123.log.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "first\n");
    }

    #[test]
    fn reopening_follows_an_external_rename() {
        let fixture = Fixture::new("reopen");
        let mut log = fixture.open(limits(1000));
        log.write_lines(b"1\n").unwrap();
        std::fs::rename(fixture.dir.join("deep/sftpgo.log"), fixture.dir.join("deep/moved")).unwrap();
        log.write_lines(b"2\n").unwrap();
        log.reopen().unwrap();
        log.write_lines(b"3\n").unwrap();
        assert_eq!((fixture.text("moved"), fixture.text("sftpgo.log")), ("1\n2\n".into(), "3\n".into()));
    }

    #[cfg(unix)]
    #[test]
    fn others_cannot_read_the_log() {
        use std::os::unix::fs::PermissionsExt as _;
        let fixture = Fixture::new("mode");
        let mut log = fixture.open(limits(4));
        let mode = |name: &str| {
            std::fs::metadata(fixture.dir.join("deep").join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode("sftpgo.log") & !0o640, 0);
        std::fs::set_permissions(fixture.dir.join("deep/sftpgo.log"), std::fs::Permissions::from_mode(0o600))
            .unwrap();
        log.write_lines(b"1\n\n").unwrap();
        log.write_lines(b"2\n\n").unwrap();
        assert_eq!(mode("sftpgo.log"), 0o600, "the new file has the mode of the old one");
    }
}
