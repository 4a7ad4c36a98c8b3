//! temporary
use super::{MachineError, MemoryImage, Output, RunningMachine};
use std::time::Duration;
/// temporary
#[derive(Debug)]
pub struct KvmMachine;
/// temporary
pub fn tsc_frequency() -> Result<u64, MachineError> {
    Err(MachineError::Machine(String::new()))
}
/// temporary
pub fn check() -> Result<(), MachineError> {
    Err(MachineError::Machine("not there yet".into()))
}
impl KvmMachine {
    /// temporary
    pub fn start(_: MemoryImage) -> Result<Self, MachineError> {
        Err(MachineError::Machine(String::new()))
    }
}
impl RunningMachine for KvmMachine {
    fn output(&mut self, _: Duration) -> Result<Output, MachineError> {
        Ok(Output::Ended)
    }
    fn input(&mut self, _: &[u8]) -> Result<usize, MachineError> {
        Ok(0)
    }
    fn request_stop(&mut self) -> Result<(), MachineError> {
        Ok(())
    }
    fn last_words(&self) -> String {
        String::new()
    }
}
