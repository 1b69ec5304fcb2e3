//! Users, to whom rows are charged.

/// A user by uid, to whom rows are charged if an answer is too long.
///
/// Uids from 100000 on count in blocks of 65,536, the size that one user gets for user namespaces (subuid(5)).
/// Otherwise a user could spread rows over that many uids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User(Option<u32>);

impl User {
    const FIRST_SUBORDINATE: u32 = 100_000;
    const BLOCK: u32 = 65_536;
    /// The superuser.
    pub const ROOT: User = User(Some(0));

    /// The user with this uid; one user stands for all unknown uids.
    pub fn of_uid(uid: Option<u32>) -> User {
        User(uid.map(|uid| match uid.checked_sub(User::FIRST_SUBORDINATE) {
            Some(above) => uid - above % User::BLOCK,
            None => uid,
        }))
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            None => f.write_str("unknown uids"),
            Some(first @ User::FIRST_SUBORDINATE..) => {
                write!(f, "uids {first} to {}", first.saturating_add(User::BLOCK - 1))
            }
            Some(uid) => write!(f, "uid {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_uids_of_one_user_are_one() {
        let user = |uid| User::of_uid(Some(uid));
        assert_ne!(user(0), user(1000));
        assert_ne!(user(99_999), user(100_000));
        assert_eq!(user(100_000), user(165_535));
        assert_ne!(user(165_535), user(165_536));
        assert_eq!(user(u32::MAX), user(u32::MAX - 1));
        assert_ne!(User::of_uid(None), user(0));
        assert_eq!(user(1000).to_string(), "uid 1000");
        assert_eq!(user(165_536).to_string(), "uids 165536 to 231071");
    }
}
