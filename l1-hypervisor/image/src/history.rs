//! The one recorder of the run, where the report of a failure finds it too.
#![expect(unsafe_code, reason = "reading the ring after a failure")]

use exit_trace::record;
use l1_protocol::frame::FrameKind;

use crate::channel::Channel;
use crate::hardware::single::SingleProcessor;
use crate::recorder::Recorder;

/// The recorder.
pub static RECORDER: SingleProcessor<Recorder> = SingleProcessor::new(Recorder::new());
/// How many records the report of a run that ended badly shows.
const SHOWN: usize = 16;

/// Sends the last records.
pub fn send_last(recorder: &Recorder, channel: &mut Channel) {
    let [first, second] = recorder.ring.last(SHOWN);
    channel.frame(FrameKind::History, &[record::bytes(first), record::bytes(second)]);
}

/// Sends the last records after a failure of L1.
pub fn send(channel: &mut Channel) {
    // SAFETY: called only by the failure report, after which the code that borrowed the recorder never runs again.
    let recorder = unsafe { RECORDER.seize() };
    send_last(recorder, channel);
}
