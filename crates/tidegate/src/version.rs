//! Which build this is: the three parts that `--version`, the web footer, the REST API and mDNS show.

use std::fmt;

/// The version of this program in its three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// Semantic version, such as `0.1.0`.
    pub(crate) number: &'static str,
    /// Output of `git describe --always --dirty`, or empty.
    pub(crate) commit: &'static str,
    /// Build date, UTC, such as `2026-01-31T12:00:00Z`, or empty.
    pub(crate) build_date: &'static str,
}

/// The version of this build; commit and date come from `build.rs`.
pub(crate) const VERSION: Version = Version {
    number: env!("CARGO_PKG_VERSION"),
    commit: env!("TIDEGATE_COMMIT"),
    build_date: env!("TIDEGATE_BUILD_DATE"),
};

impl fmt::Display for Version {
    /// `<version>[-<commit>][-<build date>]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number)?;
        for part in [self.commit, self.build_date] {
            if !part.is_empty() {
                write!(f, "-{part}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_parts_leave_no_dash() {
        let full = Version { number: "0.1.0", commit: "08a6b00-dirty", build_date: "2026-01-31T12:00:00Z" };
        assert_eq!(full.to_string(), "0.1.0-08a6b00-dirty-2026-01-31T12:00:00Z");
        assert_eq!(Version { commit: "", ..full }.to_string(), "0.1.0-2026-01-31T12:00:00Z");
        assert_eq!(Version { commit: "", build_date: "", ..full }.to_string(), "0.1.0");
    }

    #[test]
    fn the_build_date_is_iso_utc() {
        let date = VERSION.build_date;
        assert!(date.parse::<jiff::Timestamp>().is_ok() && date.ends_with('Z'), "{date:?}");
    }
}
