//! Small disks that fill up and fail: an ext4 file system in a file, on loop devices. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

/// A disk of its own. Dropping it unmounts it.
pub struct Disk {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Where the file with it is: a file system in memory, of a given size.
    below: PathBuf,
}

impl Disk {
    /// A disk that says to be of `mib`, on memory of `memory_mib`: less makes writes fail that the file system has
    /// accepted, as a broken disk does.
    ///
    /// # Errors
    /// Where mounting is not allowed.
    pub fn mount(folder: &Path, name: &str, mib: u64, memory_mib: u64) -> anyhow::Result<Self> {
        let disk = Self {
            mount: folder.join(name),
            below: folder.join(format!("{name}-below")),
        };
        fs::create_dir_all(&disk.mount)?;
        fs::create_dir_all(&disk.below)?;
        let size = format!("size={memory_mib}m");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "tmpfs"],
            &[&disk.below],
        )?;
        let image = disk.below.join("image");
        fs::File::create(&image)?.set_len(mib * 1024 * 1024)?;
        // Without a journal of its own: one failed write and the journal would refuse all others for good.
        let options = [
            "-q",
            "-F",
            "-b",
            "4096",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-E",
            "nodiscard",
        ];
        run("mkfs.ext4", &options, &[&image])?;
        let how = "loop,errors=continue";
        run("mount", &["-o", how], &[&image, &disk.mount])?;
        disk.fail_whole_requests()?;
        Ok(disk)
    }

    /// A block at a time: of a longer request that finds no place for its end, a loop device writes the beginning and
    /// says that it wrote all. A disk that lies about a sync is another test.
    fn fail_whole_requests(&self) -> anyhow::Result<()> {
        let command = ["-n", "-o", "SOURCE"];
        let found = Command::new("findmnt")
            .args(command)
            .arg(&self.mount)
            .output()?;
        let device = String::from_utf8(found.stdout)?;
        let name = device.trim().trim_start_matches("/dev/");
        let limit = Path::new("/sys/block").join(name);
        fs::write(limit.join("queue/max_sectors_kb"), "4")?;
        Ok(())
    }

    /// Fills the file system: writes find no space.
    ///
    /// # Errors
    /// When nothing at all can be written.
    pub fn fill(&self) -> anyhow::Result<()> {
        fill(&self.mount.join("filler"))
    }

    /// Takes the space below the file system away: writes are accepted, and syncs fail.
    ///
    /// # Errors
    /// When nothing at all can be written.
    pub fn fail(&self) -> anyhow::Result<()> {
        fill(&self.below.join("filler"))
    }

    /// Undoes [`fill`](Self::fill) and [`fail`](Self::fail).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn mend(&self) -> anyhow::Result<()> {
        for filler in [self.mount.join("filler"), self.below.join("filler")] {
            if filler.exists() {
                fs::remove_file(filler)?;
            }
        }
        Ok(())
    }
}

fn fill(path: &Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(path)?;
    for size in [1024 * 1024, 4096, 512] {
        let block = vec![0xa5; size];
        while file.write_all(&block).is_ok() {}
    }
    // It fails on a broken disk, as it should.
    let _ = file.sync_all();
    Ok(())
}

impl Drop for Disk {
    fn drop(&mut self) {
        for mount in [&self.mount, &self.below] {
            // Lazily: a process that is being killed may hold a file for a moment.
            let _ = Command::new("umount").arg("-l").arg(mount).output();
        }
    }
}
