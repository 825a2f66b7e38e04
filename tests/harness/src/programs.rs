//! Puts recorded packets through the kernel programs, one by one, with their recorded times (BPF_PROG_TEST_RUN).

use anyhow::Result;
use aya::maps::{Array, MapData};
use flowmeter::kernel::Ring;
use flowmeter::record::{FlowRecord, Stage};
use flowmeter_common::counter::InterfaceCounters;
use flowmeter_common::lifecycle::{Ages, EndReason, Timeouts};
use flowmeter_common::parse::ParseOptions;
use flowmeter_common::table::{free, state};

use crate::test_programs::{Setup, TestPrograms};

/// The entry that takes its clock from a map.
const PROGRAM: &str = "flowmeter_replay";

/// The loaded programs and their maps.
pub struct Programs {
    test_programs: TestPrograms,
    clock: Array<MapData, [u64; 2]>,
    ring: Ring,
    /// Flows that later packets ended.
    ended: Vec<FlowRecord>,
    timeouts: Timeouts,
    counted_before: InterfaceCounters,
}

impl Programs {
    /// Loads the programs with a table for `flows` flows.
    ///
    /// # Errors
    /// They have not been built, or the kernel refuses them.
    pub fn load(timeouts: Timeouts, look: ParseOptions, flows: u32) -> Result<Self> {
        let setup = Setup { programs: &[PROGRAM], timeouts, look, flows, ..Setup::default() };
        let mut test_programs = TestPrograms::load(&setup)?;
        let ring = test_programs.ring()?;
        let clock = test_programs.take_map("REPLAY")?.try_into()?;
        let counted_before = InterfaceCounters::default();
        Ok(Self { test_programs, clock, ring, ended: Vec::new(), timeouts, counted_before })
    }

    /// Runs the ingress path on a frame of at least [`SHORTEST`](crate::test_programs::SHORTEST) bytes.
    ///
    /// # Errors
    /// The kernel does not run it, or the program does not pass the packet.
    pub fn packet(&mut self, data: &[u8], now: u64, wire_len: usize) -> Result<()> {
        self.clock.set(0, [now, wire_len as u64], 0)?;
        self.test_programs.run(PROGRAM, data, 1)?;
        // At once, as the agent does within milliseconds: a key's slots are few.
        while let Some(event) = self.ring.take() {
            if self.test_programs.table.tag(event.slot) & state::MASK == state::RETIRED {
                self.take_out(event.slot, None);
            }
        }
        Ok(())
    }

    /// Takes all flows out, as the agent does; those that live ended by the clock, or with the capture, at `now`.
    pub fn drain(&mut self, now: u64) -> Vec<FlowRecord> {
        for slot in 0..self.test_programs.table.size().slots() {
            match self.test_programs.table.tag(slot) & state::MASK {
                state::LIVE => self.take_out(slot, Some(now)),
                state::RETIRED => self.take_out(slot, None),
                _ => {}
            }
        }
        std::mem::take(&mut self.ended)
    }

    /// Takes one flow out; it lives if it is given a time.
    fn take_out(&mut self, slot: u32, living_at: Option<u64>) {
        let tag = self.test_programs.table.tag(slot);
        if let Some(entry) = self.test_programs.table.copy_retired(tag) {
            let why = match living_at {
                Some(now) => {
                    // SAFETY: a reference points to a readable flow.
                    let ages = unsafe { Ages::read(&entry.state) };
                    let by_clock = ages.and_then(|ages| ages.expired(now, &self.timeouts));
                    by_clock.unwrap_or(EndReason::EndOfCapture)
                }
                None => EndReason::from_number(entry.end_reason).unwrap_or(EndReason::PortReuse),
            };
            self.ended.push(FlowRecord { entry, stage: Stage::End(why), clock_offset: 0, context: None });
        }
        free(&*self.test_programs.table, slot, tag);
    }

    /// What was counted since the last call. Events are left out: nobody takes them.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counted(&mut self) -> Result<InterfaceCounters> {
        let mut all = self.test_programs.counted()?;
        all.events_lost = 0;
        let before = std::mem::replace(&mut self.counted_before, all);
        let mut since = all;
        since.seen -= before.seen;
        since.counted -= before.counted;
        since.counted_bytes -= before.counted_bytes;
        since.folded -= before.folded;
        since.folded_bytes -= before.folded_bytes;
        since.opened -= before.opened;
        for (now, before) in since.skipped.iter_mut().zip(before.skipped) {
            *now -= before;
        }
        Ok(since)
    }
}
