//! A disk of its own whose power can be cut for real: ext4 in a file on a loop device.
//!
//! The cut is the file system's shutdown ioctl (`EXT4_IOC_SHUTDOWN`, the same number as `XFS_IOC_GOINGDOWN`, without
//! a flush of its log): from then on nothing reaches the disk, and what was not synced is gone when it is mounted
//! again. `xfs_io` of xfsprogs sends it, so that no unsafe code of our own is needed.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{path, run};

const PROGRAMS: [&str; 4] = ["mkfs.ext4", "mount", "umount", "xfs_io"];

/// A mounted disk. Dropping it unmounts and removes it.
pub struct LoopDisk {
    folder: TempDir,
}

impl LoopDisk {
    /// What keeps this machine from making one, if anything does.
    #[must_use]
    pub fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("root (a disk on a loop device)".to_owned());
        }
        let places = path();
        let lacks = |program: &&str| {
            let mut places = std::env::split_paths(&places);
            !places.any(|place| place.join(program).is_file())
        };
        let program = PROGRAMS.iter().find(|program| lacks(program))?;
        Some(format!("{program} (e2fsprogs, mount, xfsprogs)"))
    }

    /// Makes and mounts one of so many octets.
    ///
    /// # Errors
    /// When a program that it needs fails, with what that says.
    pub fn make(octets: u64) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = Self { folder };
        fs::File::create(disk.image())?.set_len(octets)?;
        run("mkfs.ext4", &["-q", "-F"], &[&disk.image()])?;
        fs::create_dir(disk.path())?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> anyhow::Result<()> {
        run("mount", &["-o", "loop"], &[&self.image(), &self.path()])
    }

    /// Cuts the power: each read and write fails from now on. End the processes that use it, then
    /// [`restore`](Self::restore) it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn cut(&self) -> anyhow::Result<()> {
        run("xfs_io", &["-x", "-c", "shutdown"], &[&self.path()])
    }

    /// Mounts it again, with what had been synced before the cut.
    ///
    /// # Errors
    /// When a process still uses it, or the file system can't be mounted.
    pub fn restore(&self) -> anyhow::Result<()> {
        run("umount", &[], &[&self.path()])?;
        self.mount()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Whoever still uses it is about to end; the kernel frees it then.
        let _ = run("umount", &["-l"], &[&self.path()]);
    }
}
