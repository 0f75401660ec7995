//! The key folder `<data>/keys`: every secret of the service, one file each, readable by its owner only.
//!
//! ```text
//! keys/node.key                        the service's signing key (Ed25519 seed)
//! keys/enrolment/{id}.1.key            an enrolment key: admits a batch of devices; another batch is its rotation
//! keys/person/{id}.{generation}.key    the key of an admin, manager or viewer
//! ```
//!
//! Each file is 64 hexadecimal digits. A folder or file that others may read is refused. Secrets never travel:
//! a command that makes a key writes it here, and only its id goes to the service.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use simquota_shared::envelope::{Key, Kid};
use simquota_shared::ids::{EnrolmentId, KeyId, NodeId};
use zeroize::Zeroizing;

/// The id of the key that `init` makes, admitted when the ledger has none.
pub const ADMIN: &str = "admin";

/// The service's user name at a broker with access control; its password is derived from its signing key.
#[must_use]
pub fn node_user(node: &NodeId) -> String {
    format!("node.{node}")
}

/// A person's user name at a broker with access control; the password is derived from their key. An id has no dot, so
/// no device has such a name.
#[must_use]
pub fn person_user(key: &KeyId) -> String {
    format!("key.{key}")
}

/// A key file is 64 digits and a line end; anything much longer is another file.
const FILE_OCTETS_MAX: u64 = 256;
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// Why a key can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system said no.
    #[error("can't {action} {}: {source}: check the path and its owner", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no key folder.
    #[error("there is no key folder {}: run `simquota-cloud init` first", .0.display())]
    NoFolder(PathBuf),
    /// A key that must be there is not.
    #[error("there is no key {}: run the command that makes it, or name another key", .0.display())]
    Missing(PathBuf),
    /// Others may read it.
    #[error("{} may be read by others (mode {mode:04o}): run `chmod {wanted:o} {}`", path.display(), path.display())]
    Open {
        /// Which folder or file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it must have.
        wanted: u32,
    },
    /// Not 64 hexadecimal digits.
    #[error("{} is not a key of 64 hexadecimal digits: restore it from a backup", .0.display())]
    Bad(PathBuf),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: no key was made")]
    Random,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io {
        action,
        path,
        source,
    }
}

/// Whether a key was made or was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is new.
    New,
    /// It existed and was left as it is.
    Existed,
}

/// The key folder, checked.
#[derive(Clone, Debug)]
pub struct KeyFolder {
    root: PathBuf,
}

impl KeyFolder {
    /// Makes the folders that are not there yet.
    ///
    /// # Errors
    /// [`KeyError`], also when an existing folder is open to others.
    pub fn create(data: &Path) -> Result<Self, KeyError> {
        let root = data.join("keys");
        for folder in [&root, &root.join("enrolment"), &root.join("person")] {
            DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(folder)
                .map_err(failed("make", folder))?;
        }
        Self::open(data)
    }

    /// Opens the folder that `init` made.
    ///
    /// # Errors
    /// [`KeyError`] when it is not there or open to others.
    pub fn open(data: &Path) -> Result<Self, KeyError> {
        let root = data.join("keys");
        for folder in [&root, &root.join("enrolment"), &root.join("person")] {
            if !folder.is_dir() {
                return Err(KeyError::NoFolder(folder.clone()));
            }
            closed_to_others(folder, FOLDER_MODE)?;
        }
        Ok(Self { root })
    }

    fn node_path(&self) -> PathBuf {
        self.root.join("node.key")
    }

    fn enrolment_path(&self, kid: &Kid) -> PathBuf {
        self.root.join("enrolment").join(file_name(kid))
    }

    /// Where a person's key is.
    #[must_use]
    pub fn person_path(&self, kid: &Kid) -> PathBuf {
        self.root.join("person").join(file_name(kid))
    }

    /// The service's signing key.
    ///
    /// # Errors
    /// [`KeyError`], also when there is none.
    pub fn node(&self) -> Result<SigningKey, KeyError> {
        let path = self.node_path();
        let key = read(&path)?.ok_or(KeyError::Missing(path))?;
        Ok(SigningKey::from_bytes(key.octets()))
    }

    /// An enrolment key; `None` when there is no such file.
    ///
    /// # Errors
    /// [`KeyError`] when there is one and it can't be used.
    pub fn enrolment(&self, kid: &Kid) -> Result<Option<Key>, KeyError> {
        read(&self.enrolment_path(kid))
    }

    /// A person's key; `None` when there is no such file.
    ///
    /// # Errors
    /// [`KeyError`] when there is one and it can't be used.
    pub fn person(&self, kid: &Kid) -> Result<Option<Key>, KeyError> {
        read(&self.person_path(kid))
    }

    /// Makes the service's signing key unless there is one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn make_node(&self) -> Result<Made, KeyError> {
        make(&self.node_path())
    }

    /// Makes an enrolment key of the first generation unless there is one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn make_enrolment(&self, id: &EnrolmentId) -> Result<Made, KeyError> {
        make(&self.enrolment_path(&Kid::first(id)))
    }

    /// Makes a person's key of the first generation unless there is one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn make_person(&self, id: &KeyId) -> Result<Made, KeyError> {
        make(&self.person_path(&Kid::first(id)))
    }

    /// Takes back a key that the service did not admit.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn remove_enrolment(&self, id: &EnrolmentId) -> Result<(), KeyError> {
        let path = self.enrolment_path(&Kid::first(id));
        fs::remove_file(&path).map_err(failed("remove", &path))
    }

    /// The latest generation of a person's key.
    ///
    /// # Errors
    /// [`KeyError`] when there is none.
    pub fn latest_person(&self, id: &KeyId) -> Result<Kid, KeyError> {
        latest(&self.root.join("person"), id.as_str())
    }

    /// The names of all people's keys, in order.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn people(&self) -> Result<Vec<String>, KeyError> {
        let kids = kids(&self.root.join("person"))?;
        let mut names: Vec<String> = kids.into_iter().map(|kid| kid.name).collect();
        names.dedup();
        Ok(names)
    }
}

/// Reads a key file outside of the folder, named `{id}.{generation}.key`.
///
/// # Errors
/// [`KeyError`], also when it is open to others or named otherwise.
pub fn read_file(path: &Path) -> Result<(Kid, Key), KeyError> {
    let name = path.file_name().map(|name| name.to_string_lossy());
    let kid = name
        .and_then(|name| parse_name(&name))
        .ok_or_else(|| KeyError::Bad(path.to_owned()))?;
    let key = read(path)?.ok_or_else(|| KeyError::Missing(path.to_owned()))?;
    Ok((kid, key))
}

fn file_name(kid: &Kid) -> String {
    format!("{}.{}.key", kid.name, kid.generation)
}

fn parse_name(name: &str) -> Option<Kid> {
    let (id, generation) = name.strip_suffix(".key")?.rsplit_once('.')?;
    let kid = Kid {
        name: id.parse::<KeyId>().ok()?.to_string(),
        generation: generation.parse().ok().filter(|number| *number > 0)?,
    };
    (file_name(&kid) == name).then_some(kid)
}

fn kids(folder: &Path) -> Result<Vec<Kid>, KeyError> {
    let mut found = Vec::new();
    for row in fs::read_dir(folder).map_err(failed("list", folder))? {
        let row = row.map_err(failed("list", folder))?;
        found.extend(parse_name(&row.file_name().to_string_lossy()));
    }
    found.sort();
    Ok(found)
}

fn latest(folder: &Path, id: &str) -> Result<Kid, KeyError> {
    kids(folder)?
        .into_iter()
        .rfind(|kid| kid.name == id)
        .ok_or_else(|| KeyError::Missing(folder.join(format!("{id}.1.key"))))
}

fn closed_to_others(path: &Path, wanted: u32) -> Result<(), KeyError> {
    let mode = fs::metadata(path)
        .map_err(failed("look at", path))?
        .permissions()
        .mode()
        & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(KeyError::Open {
        path: path.to_owned(),
        mode,
        wanted,
    })
}

fn read(path: &Path) -> Result<Option<Key>, KeyError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    closed_to_others(path, FILE_MODE)?;
    let mut text = Zeroizing::new(String::new());
    io::Read::read_to_string(&mut io::Read::take(file, FILE_OCTETS_MAX), &mut text)
        .map_err(failed("read", path))?;
    Key::from_hex(&text)
        .map(Some)
        .map_err(|_| KeyError::Bad(path.to_owned()))
}

/// Writes a new random key beside its place, makes it durable and links it there: a crash leaves a whole key or
/// none, and an existing key is never replaced.
fn make(path: &Path) -> Result<Made, KeyError> {
    if path.exists() {
        read(path)?;
        return Ok(Made::Existed);
    }
    let mut octets = Zeroizing::new([0_u8; 32]);
    getrandom::fill(octets.as_mut_slice()).map_err(|_| KeyError::Random)?;
    let key = Key::new(*octets);
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let written = write_durably(&beside, &key).and_then(|()| fs::hard_link(&beside, path));
    let removed = fs::remove_file(&beside);
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Made::Existed),
        Err(error) => return Err(failed("write", path)(error)),
    }
    removed.map_err(failed("remove", &beside))?;
    if let Some(folder) = path.parent() {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed("sync", folder))?;
    }
    Ok(Made::New)
}

fn write_durably(path: &Path, key: &Key) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(key.to_hex().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn folder() -> (tempfile::TempDir, KeyFolder) {
        let data = tempfile::tempdir().unwrap();
        let keys = KeyFolder::create(data.path()).unwrap();
        (data, keys)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        let (_data, keys) = folder();
        let id: KeyId = "admin".parse().unwrap();
        assert_eq!(keys.make_person(&id).unwrap(), Made::New);
        let first = keys.person(&Kid::first(&id)).unwrap().unwrap();
        assert_eq!(keys.make_person(&id).unwrap(), Made::Existed);
        assert_eq!(keys.person(&Kid::first(&id)).unwrap().unwrap(), first);
        let path = keys.person_path(&Kid::first(&id));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let root = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(root.permissions().mode() & 0o777, 0o700);
        assert_eq!(keys.people().unwrap(), ["admin"]);
    }

    #[test]
    fn a_key_or_folder_open_to_others_is_refused_with_the_command_that_mends_it() {
        let (data, keys) = folder();
        keys.make_node().unwrap();
        let path = data.path().join("keys/node.key");
        chmod(&path, 0o640);
        let error = keys.node().unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "{0} may be read by others (mode 0640): run `chmod 600 {0}`",
                path.display()
            )
        );
        chmod(&path, 0o600);
        keys.node().unwrap();
        let person = data.path().join("keys/person");
        chmod(&person, 0o755);
        let error = KeyFolder::open(data.path()).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("run `chmod 700 {}`", person.display())),
            "{error}"
        );
    }

    #[test]
    fn missing_and_damaged_keys_are_told_apart() {
        let (data, keys) = folder();
        assert!(matches!(keys.node(), Err(KeyError::Missing(_))));
        let kid = Kid::first(&"batch");
        assert!(keys.enrolment(&kid).unwrap().is_none());
        keys.make_enrolment(&"batch".parse().unwrap()).unwrap();
        let path = data.path().join("keys/enrolment/batch.1.key");
        fs::write(&path, "00").unwrap();
        let error = keys.enrolment(&kid).unwrap_err().to_string();
        assert!(error.contains("batch.1.key is not a key"), "{error}");
        let none = tempfile::tempdir().unwrap();
        let error = KeyFolder::open(none.path()).unwrap_err().to_string();
        assert!(error.contains("run `simquota-cloud init`"), "{error}");
    }

    #[test]
    fn the_latest_generation_is_by_number_and_other_names_are_ignored() {
        let (data, keys) = folder();
        let id: KeyId = "ops".parse().unwrap();
        keys.make_person(&id).unwrap();
        let folder = data.path().join("keys/person");
        for name in ["ops.10.key", "ops.9.key", "ops.key", "ops.011.key", "x"] {
            fs::copy(folder.join("ops.1.key"), folder.join(name)).unwrap();
        }
        assert_eq!(keys.latest_person(&id).unwrap().generation, 10);
        assert!(keys.latest_person(&"nobody".parse().unwrap()).is_err());
        let (kid, _) = read_file(&folder.join("ops.9.key")).unwrap();
        assert_eq!(kid.to_string(), "ops/9");
    }
}
