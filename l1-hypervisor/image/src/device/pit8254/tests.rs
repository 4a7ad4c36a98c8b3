//! Modes after the data sheet's timing diagrams, and the ways Linux uses the timer.

use proptest::prelude::*;

use super::*;
use crate::device::tests::Machine;

const GATE_AND_SPEAKER_OFF: u8 = 0x01;

fn at(tick: u64) -> Nanoseconds {
    CLOCK.time_of(tick).expect("not that far")
}

impl Machine {
    fn tick(&mut self, tick: u64) {
        self.now = at(tick);
    }

    fn count(&mut self, channel: u16) -> u16 {
        self.write(CONTROL, (channel as u8) << 6);
        let low = self.read(COUNTER + channel);
        u16::from_le_bytes([low, self.read(COUNTER + channel)])
    }

    fn start(&mut self, channel: u16, mode: u8, count: u16) {
        self.write(CONTROL, (channel as u8) << 6 | 0x30 | mode << 1);
        let [low, high] = count.to_le_bytes();
        self.write(COUNTER + channel, low);
        self.write(COUNTER + channel, high);
    }

    fn output2(&mut self) -> bool {
        self.read(SYSTEM_CONTROL_B) & OUTPUT_2 != 0
    }

    /// Output of channel 2 at each of the `ticks`, `#` for high.
    fn trace2(&mut self, ticks: core::ops::Range<u64>) -> std::string::String {
        ticks
            .map(|tick| {
                self.tick(tick);
                if self.output2() { '#' } else { '_' }
            })
            .collect()
    }

    /// Ticks at which channel 0 requests an interrupt, as a halted guest sees them.
    fn edges(&mut self, count: usize) -> std::vec::Vec<u64> {
        (0..count).map_while(|_| self.halt().map(|_| CLOCK.ticks_at(self.now))).collect()
    }
}

fn halting() -> Machine {
    let mut machine = Machine::with_interrupt_controllers();
    machine.unmask(TIMER);
    machine
}

fn gated(mode: u8, count: u16) -> Machine {
    let mut machine = Machine::new();
    machine.write(SYSTEM_CONTROL_B, GATE_AND_SPEAKER_OFF);
    machine.start(2, mode, count);
    machine
}

#[test]
fn mode_0_goes_high_at_the_terminal_count() {
    assert_eq!(gated(0, 4).trace2(0..9), "_____####", "one tick to load, four to count");
}

#[test]
fn mode_0_pauses_while_the_gate_is_low() {
    let mut machine = gated(0, 4);
    machine.tick(3);
    machine.write(SYSTEM_CONTROL_B, 0);
    assert_eq!(machine.count(2), 2);
    machine.tick(1000);
    assert_eq!(machine.count(2), 2);
    machine.write(SYSTEM_CONTROL_B, GATE_AND_SPEAKER_OFF);
    assert_eq!(machine.trace2(1000..1004), "__##");
}

#[test]
fn mode_1_is_a_pulse_that_the_gate_starts() {
    let mut machine = gated(1, 3);
    assert_eq!(machine.trace2(0..3), "###", "a gate that is already high does not start it");
    machine.write(SYSTEM_CONTROL_B, 0);
    machine.write(SYSTEM_CONTROL_B, GATE_AND_SPEAKER_OFF);
    assert_eq!(machine.trace2(3..8), "___##");
    machine.write(SYSTEM_CONTROL_B, 0);
    machine.tick(20);
    machine.write(SYSTEM_CONTROL_B, GATE_AND_SPEAKER_OFF);
    assert_eq!(machine.trace2(21..26), "___##", "and again");
}

#[test]
fn mode_2_divides() {
    assert_eq!(gated(2, 3).trace2(1..10), "##_##_##_");
}

#[test]
fn mode_3_is_a_square_wave() {
    assert_eq!(gated(3, 4).trace2(1..9), "##__##__");
    assert_eq!(gated(3, 5).trace2(1..11), "###__###__", "the odd tick is a high one");
}

#[test]
fn mode_3_counts_by_two() {
    let mut machine = gated(3, 5);
    let counts: std::vec::Vec<_> = (1..7)
        .map(|tick| {
            machine.tick(tick);
            machine.count(2)
        })
        .collect();
    assert_eq!(counts, [4, 2, 0, 4, 2, 4]);
}

#[test]
fn mode_4_strobes_once() {
    assert_eq!(gated(4, 3).trace2(0..9), "####_####");
}

#[test]
fn mode_5_strobes_after_the_gate() {
    let mut machine = gated(5, 3);
    assert_eq!(machine.trace2(0..9), "#########");
    machine.write(SYSTEM_CONTROL_B, 0);
    machine.write(SYSTEM_CONTROL_B, GATE_AND_SPEAKER_OFF);
    assert_eq!(machine.trace2(9..15), "###_##");
}

#[test]
fn a_periodic_mode_stops_high_and_starts_over_with_the_gate() {
    let mut machine = gated(2, 5);
    machine.tick(5);
    machine.write(SYSTEM_CONTROL_B, 0);
    assert!(machine.output2());
    machine.tick(100);
    machine.write(SYSTEM_CONTROL_B, GATE_AND_SPEAKER_OFF);
    assert_eq!(machine.trace2(101..107), "####_#");
}

#[test]
fn a_new_count_waits_for_the_end_of_the_period() {
    let mut machine = gated(2, 4);
    machine.tick(2);
    machine.write(COUNTER + 2, 2);
    machine.write(COUNTER + 2, 0);
    assert_eq!(machine.trace2(3..11), "#_#_#_#_");
}

#[test]
fn a_new_count_of_a_square_wave_waits_for_the_end_of_the_half() {
    let mut machine = gated(3, 8);
    machine.tick(2);
    machine.write(COUNTER + 2, 4);
    machine.write(COUNTER + 2, 0);
    assert_eq!(machine.trace2(3..13), "##__##__##");
}

#[test]
fn the_count_wraps_after_the_terminal_count() {
    let mut machine = gated(0, 4);
    machine.tick(5);
    assert_eq!(machine.count(2), 0);
    machine.tick(6);
    assert_eq!(machine.count(2), 0xffff);
    let mut machine = Machine::new();
    machine.write(SYSTEM_CONTROL_B, GATE_AND_SPEAKER_OFF);
    machine.write(CONTROL, 0xb1);
    machine.write2(COUNTER + 2, 0);
    machine.write(COUNTER + 2, 0x10);
    machine.tick(2);
    assert_eq!(machine.count(2), 0x0999, "decimal");
    machine.tick(1002);
    assert_eq!(machine.count(2), 0x9999);
}

#[test]
fn latch_and_read_back() {
    let mut machine = gated(2, 0x1234);
    machine.tick(1);
    // Count and status of channel 2; the status is read first.
    machine.write(CONTROL, 0xc8);
    machine.tick(0x1000);
    machine.write(CONTROL, 0xc8);
    assert_eq!(machine.read(COUNTER + 2), 0xb4, "output high, both bytes, mode 2");
    assert_eq!((machine.read(COUNTER + 2), machine.read(COUNTER + 2)), (0x34, 0x12), "the first latch counts");
    assert_eq!(machine.read(COUNTER + 2), 0x35, "no longer latched: 0x1234 - 0xfff");
}

#[test]
fn the_status_says_when_a_count_is_not_loaded_yet() {
    let mut machine = gated(0, 10);
    let status = |machine: &mut Machine| {
        machine.write(CONTROL, 0xe8);
        machine.read(COUNTER + 2)
    };
    assert_eq!(status(&mut machine), 0x70);
    machine.tick(1);
    assert_eq!(status(&mut machine), 0x30);
    machine.write(CONTROL, 0x98);
    assert_eq!(status(&mut machine), 0xd8, "mode 4, low byte, output high, no count");
}

#[test]
fn single_byte_access() {
    let mut machine = Machine::new();
    machine.write(SYSTEM_CONTROL_B, GATE_AND_SPEAKER_OFF);
    machine.write(CONTROL, 0xa4);
    machine.write(COUNTER + 2, 2);
    machine.tick(2);
    assert_eq!((machine.read(COUNTER + 2), machine.read(COUNTER + 2)), (1, 1), "0x01ff, high bytes");
    machine.write(CONTROL, 0x94);
    machine.write(COUNTER + 2, 9);
    machine.tick(4);
    assert_eq!((machine.read(COUNTER + 2), machine.read(COUNTER + 2)), (8, 8));
}

#[test]
fn linux_calibrates_its_clock_with_channel_2() {
    // pit_hpet_ptimer_calibrate_cpu: 50 ms in mode 0, polled at port 0x61.
    let mut machine = Machine::new();
    let value = machine.read(SYSTEM_CONTROL_B) & !0x02 | 0x01;
    machine.write(SYSTEM_CONTROL_B, value);
    machine.start(2, 0, (HERTZ / 20) as u16);
    machine.now = 49_990_000;
    assert!(!machine.output2());
    machine.now = 50_010_000;
    assert!(machine.output2());
    // quick_pit_calibrate: the high byte of a count from 0xffff, read in pairs.
    machine.start(2, 0, 0xffff);
    let start = CLOCK.ticks_at(machine.now);
    for tick in [1, 256, 257, 512, 10_000] {
        machine.tick(start + tick + 1);
        let low = machine.read(COUNTER + 2);
        assert_eq!(u16::from_le_bytes([low, machine.read(COUNTER + 2)]), 0xffff - tick as u16);
    }
}

#[test]
fn linux_ticks_periodically() {
    // pit_set_periodic with HZ=250.
    let mut machine = halting();
    machine.start(0, 2, 4773);
    assert_eq!(machine.edges(4), [4774, 9547, 14_320, 19_093]);
}

#[test]
fn linux_ticks_once() {
    // pit_set_oneshot and pit_next_event.
    let mut machine = halting();
    machine.write(CONTROL, 0x38);
    assert_eq!(machine.devices.next_deadline(), None, "no count yet");
    for _ in 0..3 {
        let now = CLOCK.ticks_at(machine.now);
        machine.write(COUNTER, 0xe8);
        machine.write(COUNTER, 0x03);
        assert_eq!(machine.edges(2), [now + 1 + 1000 + 1]);
    }
}

#[test]
fn linux_shuts_the_timer_down() {
    // pit_shutdown: mode 0 with the longest count, which still ends once.
    let mut machine = halting();
    machine.write(CONTROL, 0x30);
    assert_eq!(machine.devices.next_deadline(), None);
    machine.write(COUNTER, 0);
    machine.write(COUNTER, 0);
    assert_eq!(machine.edges(2), [0x1_0001]);
}

#[test]
fn missed_edges_collapse_and_the_phase_stays() {
    let mut machine = halting();
    machine.start(0, 2, 1000);
    machine.tick(5500);
    assert_eq!(machine.interrupt(), Some(0x20));
    machine.end_of_interrupt(TIMER);
    assert_eq!(machine.interrupt(), None, "five edges, one request");
    assert_eq!(machine.edges(2), [6001, 7001]);
}

#[test]
fn a_masked_timer_has_no_deadline_but_its_request_shows() {
    let mut machine = halting();
    machine.start(0, 2, 1000);
    machine.mask(TIMER);
    assert_eq!(machine.devices.next_deadline(), None);
    machine.write(0x20, 0x0a);
    assert_eq!(machine.read(0x20), 0);
    machine.tick(1001);
    assert_eq!(machine.read(0x20), 1);
}

#[test]
fn a_control_word_that_lifts_the_output_is_an_edge() {
    let mut machine = halting();
    machine.start(0, 0, 0);
    assert_eq!(machine.interrupt(), None);
    machine.write(CONTROL, 0x38);
    assert_eq!(machine.interrupt(), Some(0x20));
}

#[test]
fn the_timer_runs_at_the_start_as_firmware_leaves_it() {
    let mut machine = halting();
    assert_eq!(machine.edges(2), [0x1_0001, 0x2_0001]);
}

#[test]
fn refresh_toggles_and_the_speaker_bits_stay() {
    let mut machine = Machine::new();
    machine.write(SYSTEM_CONTROL_B, 0xff);
    let first = machine.read(SYSTEM_CONTROL_B);
    assert_eq!(first & !(REFRESH | OUTPUT_2), 0x0f);
    machine.now = 15_100;
    assert_eq!((machine.read(SYSTEM_CONTROL_B) ^ first) & REFRESH, REFRESH);
}

proptest! {
    /// The forecast of the next edge is what a look at the output at every tick finds.
    #[test]
    fn edges_are_where_the_output_rises(mode in 0..6u8, first in 1..40u8, second in 0..40u8, change in 1..60u64) {
        let mut channel = Channel::new();
        channel.write_control(0x10 | mode << 1, 0);
        channel.write(first, 0);
        let mut forecast = channel.next_edge_after(0);
        let mut before = channel.output(0);
        for tick in 1..300 {
            let output = channel.output(tick);
            if output && !before {
                prop_assert_eq!(forecast, Some(tick));
            } else {
                prop_assert_ne!(forecast, Some(tick));
            }
            // Once the guest changes its mind. A change in the mode of the terminal count pulls the output down.
            if tick == change && second > 0 {
                channel.write(second, tick);
            }
            forecast = channel.next_edge_after(tick);
            before = channel.output(tick);
        }
    }
}
