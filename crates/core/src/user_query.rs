//! Searching among users: what may be asked, and the answer in memory for providers that have no language for it.
//! Nothing is read here; [`UserStore::search`](crate::UserStore::search) does.

use std::cmp::Ordering;

use crate::{UnixMillis, UsedQuota, User};

/// Longer texts are in no name: the widest column takes 255 characters of four bytes each.
const MAX_TEXT_BYTES: usize = 4 * 255;

/// Whether an account may log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserStatus {
    /// It may.
    Active,
    /// It was switched off.
    Inactive,
}

/// What users are ordered by. Those that are alike follow by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserSort {
    /// The name, as the provider compares names.
    #[default]
    Username,
    /// Inactive ones first.
    Status,
    /// The end of the account; never comes last.
    Expiration,
    /// The last login; never comes first.
    LastLogin,
    /// Bytes that are stored.
    UsedSize,
    /// Files that are stored.
    UsedFiles,
}

/// Which users are wanted, and in what order.
#[derive(Debug, Clone, Default)]
pub struct UserQuery {
    /// Only names that contain this text. The case of ASCII letters does not matter; whether that of others does
    /// is up to the provider's engine.
    pub text: Option<String>,
    /// Only these.
    pub status: Option<UserStatus>,
    /// What they are ordered by.
    pub sort: UserSort,
    /// The other way round; those that are alike still follow by their names from A to Z.
    pub descending: bool,
    /// Skip so many first.
    pub offset: u32,
    /// At most so many users.
    pub limit: u32,
}

/// A part of the answer to a query.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserPage {
    /// The users of the part.
    pub users: Vec<User>,
    /// How many there are in all.
    pub total: u64,
}

/// What a query looks at in a user.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields of User")]
pub struct UserTraits<'a> {
    pub username: &'a str,
    pub active: bool,
    pub expiration_date: UnixMillis,
    pub last_login: UnixMillis,
    pub used: UsedQuota,
}

impl<'a> From<&'a User> for UserTraits<'a> {
    fn from(user: &'a User) -> Self {
        Self {
            username: &user.username,
            active: user.active,
            expiration_date: user.expiration_date,
            last_login: user.last_login,
            used: user.used,
        }
    }
}

impl UserQuery {
    /// Whether no name at all contains the text, so that nobody need be asked.
    pub fn is_hopeless(&self) -> bool {
        self.text.as_ref().is_some_and(|text| text.len() > MAX_TEXT_BYTES || text.contains('\0'))
    }

    /// The text, unless it is empty and so in every name.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref().filter(|text| !text.is_empty())
    }

    /// Chooses among `all`, of which `traits` tells what matters: the part that is wanted, and how many there are.
    pub fn choose<T>(
        &self,
        all: impl Iterator<Item = T>,
        traits: impl Fn(&T) -> UserTraits<'_>,
    ) -> (Vec<T>, u64) {
        let text = self.text().map(str::to_lowercase);
        let mut found: Vec<T> = all
            .filter(|user| {
                let user = traits(user);
                self.status.is_none_or(|status| (status == UserStatus::Active) == user.active)
                    && text.as_ref().is_none_or(|text| user.username.to_lowercase().contains(text))
            })
            .collect();
        found.sort_unstable_by(|one, other| self.compare(traits(one), traits(other)));
        let total = u64::try_from(found.len()).unwrap_or(u64::MAX);
        let part = found.into_iter().skip(self.offset as usize).take(self.limit as usize);
        (part.collect(), total)
    }

    fn compare(&self, one: UserTraits<'_>, other: UserTraits<'_>) -> Ordering {
        let end = |user: UserTraits<'_>| match user.expiration_date {
            ..=0 => UnixMillis::MAX,
            date => date,
        };
        let order = match self.sort {
            UserSort::Username => one.username.cmp(other.username),
            UserSort::Status => one.active.cmp(&other.active),
            UserSort::Expiration => end(one).cmp(&end(other)),
            UserSort::LastLogin => one.last_login.cmp(&other.last_login),
            UserSort::UsedSize => one.used.size_bytes.cmp(&other.used.size_bytes),
            UserSort::UsedFiles => one.used.files.cmp(&other.used.files),
        };
        let order = if self.descending { order.reverse() } else { order };
        order.then_with(|| one.username.cmp(other.username))
    }
}
