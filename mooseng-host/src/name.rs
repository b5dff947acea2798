//! Names on a disk: relative, with `/`, never leaving it. Pure.

use std::io;

/// Refuses a name that is absolute, empty, or could leave the directory.
pub(crate) fn checked(name: &str) -> io::Result<&str> {
    if name.is_empty() {
        return Err(refused(name, "is empty"));
    }
    checked_dir(name)
}

/// Like [`checked`], where the empty name means the disk's own directory.
pub(crate) fn checked_dir(name: &str) -> io::Result<&str> {
    if name.is_empty() {
        return Ok(name);
    }
    if name.contains('\0') {
        return Err(refused(name, "contains NUL"));
    }
    for part in name.split('/') {
        match part {
            "" => return Err(refused(name, "has an empty part")),
            "." | ".." => return Err(refused(name, "could leave the disk's directory")),
            _ => {}
        }
    }
    Ok(name)
}

/// The directory that holds a name; empty for the disk's own.
pub(crate) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn refused(name: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the name \"{}\" {why}", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_stay_inside_pass() {
        for good in ["a", "a/b", "a..b", "..a", ".hidden/x"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "/a", "a/", "a//b", "..", "a/..", "../a", "a/../../b", "./a", "a\0b"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert_eq!((parent("a"), parent("a/b/c")), ("", "a/b"));
    }
}
