//! What happens by time alone: leases of silent devices run out, packages end, commands get too late.

use simquota_shared::ids::DeviceId;
use simquota_shared::units::Epoch;

use super::Turn;
use crate::ledger::Broken;
use crate::ledger::entry::{Cause, CommandSettled, Lapsed, Subject};

/// The outcome of a command that nobody acknowledged in time.
const EXPIRED_UNSENT: u64 = 4;

impl Turn<'_> {
    pub(super) fn sweep_due(&mut self, most: usize) -> Result<bool, Broken> {
        // Plans first: what goes over into the next period must not have expired before.
        let mut more = self.turn_due(most)?;
        if more {
            return Ok(true);
        }
        more |= self.tell_fleets(most)?;
        self.settle_money(most)?;
        let leases: Vec<(DeviceId, Epoch)> = self
            .ledger
            .index
            .leases
            .iter()
            .take_while(|(until, _, _)| *until <= self.now)
            .take(most)
            .map(|(_, id, epoch)| (id.clone(), *epoch))
            .collect();
        let ends: Vec<_> = self
            .ledger
            .index
            .ends
            .iter()
            .take_while(|(until, _)| *until <= self.now)
            .take(most)
            .map(|(_, id)| id.clone())
            .collect();
        more |= leases.len() == most || ends.len() == most;
        // Ends first: what a lapse releases at the same moment goes where the package's rest went.
        for package in ends {
            self.end_package(&package, false)?;
        }
        for (id, epoch) in leases {
            self.lapse(&id, epoch)?;
        }
        self.expire_commands(most)?;
        more |= self.go_on_with_bulks()?;
        Ok(more)
    }

    /// Releases what a silent device holds. Late usage is still charged: the positions are remembered.
    pub(super) fn lapse(&mut self, id: &DeviceId, epoch: Epoch) -> Result<(), Broken> {
        let released = self
            .ledger
            .devices
            .get(id)
            .and_then(|device| device.epochs.get(&epoch))
            .map(|axis| axis.segments.iter().cloned().collect::<Vec<_>>())
            .unwrap_or_default();
        let moves = self.releases(&released)?;
        self.record(
            Subject::Device(id.clone()),
            Cause::Lapsed(Lapsed { epoch }),
            moves,
        )?;
        self.pool_gained(id)
    }

    fn expire_commands(&mut self, most: usize) -> Result<(), Broken> {
        let late: Vec<(DeviceId, u64)> = self
            .ledger
            .index
            .commanded
            .iter()
            .filter_map(|id| self.ledger.devices.get(id).map(|device| (id, device)))
            .flat_map(|(id, device)| {
                device
                    .pending
                    .iter()
                    .filter(|(_, pending)| pending.expires <= self.now)
                    .map(|(number, _)| (id.clone(), *number))
            })
            .take(most)
            .collect();
        for (id, number) in late {
            let cause = Cause::CommandSettled(CommandSettled {
                number,
                outcome: EXPIRED_UNSENT,
            });
            self.record(Subject::Device(id), cause, Vec::new())?;
        }
        Ok(())
    }
}
