//! How many programs of the system run at the same time, and for whom: a user who starts many cannot keep others
//! out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The places of all programs.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    /// How many may be taken when another one is given to a user who has some.
    shared: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_user: HashMap<String, usize>,
}

/// A program may run until this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    user: String,
}

impl Places {
    /// At most so many; a quarter of them is for users who have none yet.
    pub(super) fn new(most: usize) -> Self {
        Self { most, shared: most - most / 4, taken: Mutex::default() }
    }

    /// A place for a program of `user`, if there is one.
    pub(super) fn take(&self, user: &str) -> Option<Place<'_>> {
        let mut taken = self.taken();
        let free = if taken.by_user.contains_key(user) { self.shared } else { self.most };
        if taken.all >= free {
            return None;
        }
        taken.all += 1;
        *taken.by_user.entry(user.to_owned()).or_default() += 1;
        Some(Place { places: self, user: user.to_owned() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(count) = taken.by_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                taken.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_quarter_is_for_those_who_have_none() {
        let places = Places::new(8);
        let mut annas: Vec<_> = (0..8).filter_map(|_| places.take("anna")).collect();
        assert_eq!(annas.len(), 6);
        let bobs: Vec<_> = (0..8).filter_map(|_| places.take("bob")).collect();
        assert_eq!(bobs.len(), 1);
        let carl = places.take("carl");
        assert!(carl.is_some() && places.take("dora").is_none());
        drop((carl, bobs));
        annas.truncate(5);
        assert!(places.take("anna").is_some());
        drop(annas);
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_user.len()), (0, 0));
    }

    #[test]
    fn few_places_are_for_everybody() {
        for most in 1..4 {
            let places = Places::new(most);
            let all: Vec<_> = (0..9).filter_map(|_| places.take("anna")).collect();
            assert_eq!(all.len(), most);
        }
    }
}
