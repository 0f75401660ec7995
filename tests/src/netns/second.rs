//! A second network of the device beside its SIM, and a broker that is reached over either.

use std::net::{Ipv4Addr, TcpListener};

use super::{FAR_IP, Lab, SIM, ip};

/// The interface of the second network, in the device.
pub const OTHER: &str = "wlan0";
const OTHER_FAR: &str = "peer1";
const OTHER_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const OTHER_FAR_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
/// The broker's address at the far end: no interface's own.
pub const BROKER_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 9);

impl Lab {
    /// Makes the second network. A broker on [`BROKER_IP`] is reached over it when the SIM has no route to there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug_other(&self) -> anyhow::Result<()> {
        let (device, far) = (&self.device, &self.far);
        ip(&format!(
            "link add {OTHER} netns {} type veth peer name {OTHER_FAR} netns {}",
            device.name, far.name
        ))?;
        far.ip(&format!("addr add {BROKER_IP}/32 dev lo"))?;
        for (namespace, link, address) in
            [(device, OTHER, OTHER_IP), (far, OTHER_FAR, OTHER_FAR_IP)]
        {
            namespace.ip(&format!("link set {link} addrgenmode none"))?;
            namespace.ip(&format!("addr add {address}/30 dev {link}"))?;
            namespace.ip(&format!("link set {link} up"))?;
        }
        device.ip(&format!(
            "route add {BROKER_IP} via {OTHER_FAR_IP} dev {OTHER} metric 200"
        ))?;
        Ok(())
    }

    /// The way to the broker over the SIM.
    ///
    /// # Errors
    /// When the SIM is not there.
    pub fn route_by_sim(&self) -> anyhow::Result<()> {
        self.device
            .ip(&format!("route add {BROKER_IP} via {FAR_IP} dev {SIM}"))
            .map(drop)
    }

    /// Lets the device reach a port of this process's loopback at [`BROKER_IP`]; returns the port there.
    ///
    /// # Errors
    /// When the port can't be taken.
    pub fn relay_either_way(&self, to: u16) -> anyhow::Result<u16> {
        let listener = self.far.within(|| Ok(TcpListener::bind((BROKER_IP, 0))?))?;
        let port = listener.local_addr()?.port();
        super::pass_on_from(listener, to);
        Ok(port)
    }
}
