//! What a client of git may send: the name of a service and one path, and nothing else.
//!
//! This stands alone, so that it can be fuzzed without the SSH library.

use tidegate_vfs::VPath;

use crate::shell_words;

/// Longest path that is looked at; the system's own limit.
const MAX_PATH_BYTES: usize = 4096;

/// A service of git.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Clone and fetch.
    UploadPack,
    /// Push.
    ReceivePack,
    /// `git archive --remote`.
    UploadArchive,
}

impl Service {
    const ALL: [Self; 3] = [Self::UploadPack, Self::ReceivePack, Self::UploadArchive];

    /// The name of the command that asks for it.
    pub fn command(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
            Self::UploadArchive => "git-upload-archive",
        }
    }

    /// What git is started with, before the path.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::UploadPack => &["upload-pack", "--strict"],
            Self::ReceivePack => &["receive-pack"],
            Self::UploadArchive => &["upload-archive"],
        }
    }
}

/// What a client of git asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRequest {
    /// The service.
    pub service: Service,
    /// The repository.
    pub path: VPath,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GitRefused {
    /// It is none of git's services.
    #[error("not a service of git")]
    Service,
    /// There must be one path and nothing else.
    #[error("expected one path and nothing else")]
    Arguments,
    /// The path would be an option.
    #[error("options are not accepted")]
    Option,
    /// The path is empty, too long or has control characters.
    #[error("the path cannot be used")]
    Path,
}

impl GitRequest {
    /// Reads the line of an `exec` request.
    ///
    /// # Errors
    ///
    /// [`GitRefused`] for everything that genuine clients do not send.
    pub fn parse_line(line: &[u8]) -> Result<Self, GitRefused> {
        let words = shell_words::split(line).map_err(|_| GitRefused::Arguments)?;
        let (name, arguments) = words.split_first().ok_or(GitRefused::Service)?;
        let service = Service::ALL.into_iter().find(|service| service.command().as_bytes() == name);
        Self::parse(service.ok_or(GitRefused::Service)?, arguments)
    }

    /// Reads the arguments of a service.
    ///
    /// # Errors
    ///
    /// As [`GitRequest::parse_line`].
    pub fn parse(service: Service, arguments: &[Vec<u8>]) -> Result<Self, GitRefused> {
        let [path] = arguments else { return Err(GitRefused::Arguments) };
        if path.starts_with(b"-") {
            return Err(GitRefused::Option);
        }
        if path.is_empty() || path.len() > MAX_PATH_BYTES || path.iter().any(u8::is_ascii_control) {
            return Err(GitRefused::Path);
        }
        // `ssh://host/~/x` and `host:~/x` mean the home.
        let path = match &path[..] {
            b"~" => b"/",
            path => path.strip_prefix(b"~/").unwrap_or(path),
        };
        let path = VPath::parse(path).map_err(|_| GitRefused::Path)?;
        Ok(Self { service, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_genuine_clients_send_is_understood() {
        for (line, service, path) in [
            (&b"git-upload-pack '/repo'"[..], Service::UploadPack, "/repo"),
            (b"git-receive-pack '/a b.git/'", Service::ReceivePack, "/a b.git"),
            (b"git-upload-archive 'it'\\''s'", Service::UploadArchive, "/it's"),
            (b"git-upload-pack repo", Service::UploadPack, "/repo"),
            (b"git-upload-pack '/../../x'", Service::UploadPack, "/x"),
            (b"git-upload-pack '/wow'\\!''", Service::UploadPack, "/wow!"),
            (b"git-upload-pack '~/x'", Service::UploadPack, "/x"),
            (b"git-upload-pack '~other/x'", Service::UploadPack, "/~other/x"),
        ] {
            let request = GitRequest::parse_line(line).unwrap();
            assert_eq!((request.service, request.path.to_string()), (service, path.to_owned()));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (line, want) in [
            (&b"git-upload-pack"[..], GitRefused::Arguments),
            (b"git-upload-pack ''", GitRefused::Path),
            (b"git-upload-pack '/a\nb'", GitRefused::Path),
            (b"git-upload-pack --strict /a", GitRefused::Arguments),
            (b"git-upload-pack --help", GitRefused::Option),
            (b"git-upload-pack '-c core.sshCommand=x'", GitRefused::Option),
            (b"git-upload-pack /a; id", GitRefused::Arguments),
            (b"git-upload-pack 'a", GitRefused::Arguments),
            (b"git upload-pack /a", GitRefused::Service),
            (b"git-shell -c 'git-upload-pack /a'", GitRefused::Service),
        ] {
            assert_eq!(GitRequest::parse_line(line).err(), Some(want), "{}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        /// Whatever is accepted is one service and one path that starts with no dash, however it is quoted.
        #[test]
        fn no_line_carries_an_option(line in proptest::collection::vec(any::<u8>(), 0..80), dash in any::<bool>()) {
            let line = [if dash { &b"git-upload-pack -"[..] } else { b"git-receive-pack " }, &line].concat();
            if let Ok(request) = GitRequest::parse_line(&line) {
                let words = shell_words::split(&line).unwrap();
                prop_assert_eq!(words.len(), 2);
                prop_assert!(!words[1].starts_with(b"-") && !words[1].is_empty());
                prop_assert!(request.path.as_bytes().starts_with(b"/"));
                prop_assert!(!request.path.components().any(|name| name == b".." || name.contains(&0)));
            }
        }
    }
}
