//! Says when the table fills, and when it has room again; who leaves for it is decided in `flowmeter_common::lifecycle`.

use flowmeter_common::lifecycle::Level;
use flowmeter_common::time::SECOND;

/// Says how full the table is now.
pub(super) fn log(level: Level, living: u64, room: u64) {
    let why = match level {
        Level::Low => return log::info!("the flow table has room again: {living} of {room} flows"),
        Level::Raised => "the flow table is three quarters full",
        Level::High => {
            "the flow table is full, or nearly; packets that find no slot are counted in aggregates"
        }
    };
    let after = level.slight_idle() as f64 / SECOND as f64;
    log::warn!(
        "{why} ({living} of {room} flows at the last look): flows that nobody has answered end after {after} s of silence; \
         --max-flows makes it larger"
    );
}
