//! A real mosquitto as a child process, with a configuration and a database of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::bail;
use tempfile::TempDir;

use super::{Broker, PORT_TRIES, accepts};
use crate::port::free_port;
use crate::process::{Child, LIMIT, await_fact};

/// mosquitto on one loopback port for both protocol versions. Dropping it kills it.
pub struct Mosquitto {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
    settings: String,
}

impl Mosquitto {
    /// The installed program, if there is one. Distributions put it where a user's `PATH` does not look.
    pub fn find() -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"].map(PathBuf::from))
            .map(|folder| folder.join("mosquitto"))
            .find(|program| program.is_file())
    }

    /// Starts `program` on a free loopback port. Returns when clients can connect.
    ///
    /// # Errors
    /// When it cannot be started; the text shows its last lines.
    pub fn start(program: &Path) -> anyhow::Result<Self> {
        Self::start_with(program, "allow_anonymous true\n")
    }

    /// [`start`](Self::start) with settings of its listener: whom it lets in, its certificates.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(program: &Path, settings: &str) -> anyhow::Result<Self> {
        let mut broker = Self {
            settings: settings.to_owned(),
            program: program.to_owned(),
            folder: tempfile::tempdir()?,
            port: 0,
            child: None,
        };
        for _ in 0..PORT_TRIES {
            broker.port = free_port()?;
            if broker.launch()? {
                return Ok(broker);
            }
        }
        bail!("the ports for mosquitto were taken {PORT_TRIES} times; try again");
    }

    /// Kills it with SIGKILL. mosquitto writes its database only when it ends in peace (and each half hour), so
    /// what came since the last [`outage`](Broker::outage) is lost.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill9(),
            None => Ok(()),
        }
    }

    /// Starts it again, on the same port, with the database that it left. Nothing happens if it runs.
    ///
    /// # Errors
    /// When it cannot be started within the limit.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let what = format!("port {} again", self.port);
        await_fact(LIMIT, &what, || match self.launch() {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        })?
    }

    /// Ends it in peace and starts it again with other settings.
    ///
    /// # Errors
    /// When it does not end, or cannot be started.
    pub fn reconfigure(&mut self, settings: &str) -> anyhow::Result<()> {
        settings.clone_into(&mut self.settings);
        self.outage()?;
        self.restart()
    }

    /// The running program, for what it says.
    pub fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Starts the program and waits until it listens. `false` if its port was taken.
    fn launch(&mut self) -> anyhow::Result<bool> {
        let config = self.folder.path().join("mosquitto.conf");
        fs::write(&config, self.config())?;
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&config);
        let child = Child::start("mosquitto", &mut command)?;
        // Its own word comes first: a connection alone may have been taken by somebody else.
        if let Err(error) = child.wait_line(|line| line.ends_with(" running"), LIMIT) {
            if child.tail().contains("Address already in use") {
                return Ok(false);
            }
            return Err(error);
        }
        await_fact(LIMIT, "mosquitto to listen", || {
            accepts(self.port).then_some(())
        })?;
        self.child = Some(child);
        Ok(true)
    }

    fn config(&self) -> String {
        // It leaves root for a user of its own, who may not write here, unless told to stay. More than the 20
        // in-flight messages of the default, because a group commit holds acknowledgements back.
        format!(
            "listener {port} 127.0.0.1\n\
             {settings}\
             user root\n\
             persistence true\n\
             persistence_location {folder}/\n\
             max_inflight_messages 1000\n\
             max_queued_messages 100000\n\
             set_tcp_nodelay true\n\
             sys_interval 0\n\
             log_dest stderr\n\
             log_type error\n\
             log_type warning\n\
             log_type information\n",
            port = self.port,
            settings = self.settings,
            folder = self.folder.path().display(),
        )
    }
}

impl Broker for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn port_v4(&self) -> u16 {
        self.port
    }

    /// It ends in peace: the database is written.
    fn outage(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.terminate()?;
            child.wait_exit(LIMIT)?;
        }
        Ok(())
    }

    fn resume(&mut self) -> anyhow::Result<()> {
        self.restart()
    }

    fn restart_with_amnesia(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let database = self.folder.path().join("mosquitto.db");
        if database.exists() {
            fs::remove_file(database)?;
        }
        self.restart()
    }
}
