//! A SIM that can be replaced while the network behind it stays: an interface on top of the modem's.
//!
//! Of a veth pair both ends go at once, and with them the far end's counter. Here the far end keeps it.

use super::{DEVICE_IP, FAR, FAR_IP, Lab, Namespace, SIM, ip, run};

/// The modem's interface, which has no address and carries nothing but the SIM's.
const MODEM: &str = "modem0";
const SIM_ADDRESS: &str = "02:00:00:00:51:01";
const FAR_ADDRESS: &str = "02:00:00:00:51:02";

impl Lab {
    /// As [`Lab::make`], with a SIM that [`Lab::replace`] replaces. Both ends know each other: nobody asks for addresses.
    ///
    /// # Errors
    /// Without root, `ip`, `nft`, veth or macvlan; the text says which.
    pub fn make_replaceable() -> anyhow::Result<Lab> {
        run("nft", &["--version"])?;
        let lab = Lab {
            device: Namespace::make("dev")?,
            far: Namespace::make("far")?,
        };
        let (device, far) = (&lab.device, &lab.far);
        ip(&format!(
            "link add {MODEM} netns {} type veth peer name {FAR} address {FAR_ADDRESS} netns {}",
            device.name, far.name
        ))?;
        for (namespace, link) in [(device, MODEM), (far, FAR)] {
            namespace.ip(&format!("link set {link} addrgenmode none"))?;
            namespace.ip(&format!("link set {link} gso_max_segs 1 gro_max_size 1500"))?;
            namespace.ip(&format!("link set {link} up"))?;
        }
        far.ip(&format!("addr add {FAR_IP}/30 dev {FAR}"))?;
        far.ip(&format!(
            "neigh replace {DEVICE_IP} lladdr {SIM_ADDRESS} dev {FAR} nud permanent"
        ))?;
        lab.insert()?;
        Ok(lab)
    }

    fn insert(&self) -> anyhow::Result<()> {
        let device = &self.device;
        device.ip(&format!(
            "link add {SIM} link {MODEM} address {SIM_ADDRESS} type macvlan mode private"
        ))?;
        device.ip(&format!("link set {SIM} addrgenmode none"))?;
        device.ip(&format!("link set {SIM} gso_max_segs 1 gro_max_size 1500"))?;
        device.ip(&format!("addr add {DEVICE_IP}/30 dev {SIM}"))?;
        device.ip(&format!("link set {SIM} up"))?;
        device.ip(&format!(
            "neigh replace {FAR_IP} lladdr {FAR_ADDRESS} dev {SIM} nud permanent"
        ))?;
        Ok(())
    }

    /// Deletes the SIM's interface and makes another of its name. The far end says nothing meanwhile, because nobody
    /// could count what it sends to an interface that is not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn replace(&self) -> anyhow::Result<()> {
        self.far.nft(
            "table inet mute {\nchain said {\ntype filter hook output priority 0\ndrop\n}\n}\n",
        )?;
        self.device.ip(&format!("link del {SIM}"))?;
        self.insert()?;
        self.far.nft("delete table inet mute\n")?;
        Ok(())
    }
}
