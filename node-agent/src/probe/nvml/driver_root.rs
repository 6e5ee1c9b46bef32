//! The library below a driver's root: a folder in which the host, or a container with the driver, has its `/`.
//!
//! Only the folders where drivers put it are looked at, and a link leads nowhere else than it would for who
//! calls that folder `/`. So it is found in a mount of `/run/nvidia/driver` or of the host's `/`, and what the
//! agent's own image has is never taken for the driver's.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// What a driver links to the library of its version.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// As NVIDIA's device plugin and DRA driver look for it, then where Google's and older images have it.
const FOLDERS: [&str; 9] = [
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
    "usr/local/nvidia/lib64",
    "home/kubernetes/bin/nvidia/lib64",
];
/// As the kernel's own limit (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// It is in none of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{LIBRARY} is not below the driver root {}: {why}; looked in {}", root.display(), FOLDERS.join(", "))]
pub(crate) struct NotBelow {
    root: PathBuf,
    /// Of the folder where most of it was found.
    why: String,
}

/// The library, no link left on the way to it.
pub(super) fn find(root: &Path) -> Result<PathBuf, NotBelow> {
    let not_below = |why: &str| NotBelow {
        root: root.to_owned(),
        why: why.to_owned(),
    };
    if let Err(error) = fs::read_dir(root) {
        return Err(not_below(&error.to_string()));
    }
    let mut why = not_below("no such file");
    for folder in FOLDERS {
        match resolve(root, &Path::new(folder).join(LIBRARY)) {
            Ok(path) if path.is_file() => return Ok(path),
            Ok(path) => why = not_below(&format!("{} is no file", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => why = not_below(&format!("{folder}: {error}")),
        }
    }
    Err(why)
}

/// Where a path leads for who calls `root` `/`.
fn resolve(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut left: Vec<OsString> = Vec::new();
    let mut at = PathBuf::new();
    let mut links = 0;
    push(&mut left, path);
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let place = root.join(&next);
        if !fs::symlink_metadata(&place)?.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(io::Error::other("too many links"));
        }
        let target = fs::read_link(&place)?;
        if target.is_absolute() {
            at.clear();
        }
        push(&mut left, &target);
    }
    Ok(root.join(at))
}

/// The first part last, to be taken first.
fn push(left: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    left.extend(parts);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root with these files, and links from one path to another.
    fn root(files: &[&str], links: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let place = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        for file in files {
            fs::write(place(file), "library").unwrap();
        }
        for (from, to) in links {
            symlink(to, place(from)).unwrap();
        }
        root
    }

    fn found(root: &tempfile::TempDir) -> Option<String> {
        let path = find(root.path()).ok()?;
        let path = path.strip_prefix(root.path()).unwrap();
        Some(path.to_str().unwrap().to_owned())
    }

    #[test]
    fn it_is_found_in_every_folder_and_links_are_followed_below_the_root() {
        for folder in FOLDERS {
            let versioned = format!("{folder}/libnvidia-ml.so.580.1");
            let link = format!("{folder}/{LIBRARY}");
            let root = root(&[&versioned], &[(&link, "libnvidia-ml.so.580.1")]);
            assert_eq!(found(&root), Some(versioned));
        }
        let absolute = root(
            &["opt/driver/lib.so"],
            &[
                ("usr/lib64", "/opt/driver"),
                (
                    "opt/driver/libnvidia-ml.so.1",
                    "/usr/lib64/../driver/lib.so",
                ),
            ],
        );
        assert_eq!(found(&absolute).as_deref(), Some("opt/driver/lib.so"));
    }

    #[test]
    fn no_link_leads_out_of_the_root() {
        let outside = root(&["secret.so"], &[]);
        let secret = outside.path().join("secret.so");
        let up = format!("{}{}", "../".repeat(30), secret.display());
        let link = "usr/lib64/libnvidia-ml.so.1";
        for target in [secret.to_str().unwrap(), &up] {
            let root = root(&[], &[(link, target)]);
            assert_eq!(found(&root), None, "{target}");
        }
        let folder = root(&[], &[("usr", outside.path().to_str().unwrap())]);
        assert_eq!(found(&folder), None);
    }

    #[test]
    fn what_is_missing_or_turns_in_circles_says_where_it_was_looked_for() {
        let why = |root: &Path| find(root).unwrap_err().to_string();
        let empty = root(&[], &[]);
        let text = why(empty.path());
        assert!(text.contains(empty.path().to_str().unwrap()), "{text}");
        assert!(FOLDERS.iter().all(|folder| text.contains(folder)), "{text}");
        let circle = root(&[], &[("usr/lib64", "/usr/lib64")]);
        assert!(why(circle.path()).contains("too many links"));
        let folder = root(&["usr/lib64/libnvidia-ml.so.1/file"], &[]);
        assert!(why(folder.path()).contains("is no file"));
        assert!(why(&empty.path().join("not-there")).contains("No such file"));
    }
}
