use super::Malformed;
use crate::{Dialect, sse::Frame};
#[derive(Debug)]
pub struct Stream;
impl Stream {
    pub fn new(_: Dialect, _: Dialect, _: &str) -> Stream {
        Stream
    }
    pub fn frame(&mut self, _: &Frame, _: &mut Vec<u8>) -> Result<(), Malformed> {
        Err(Malformed)
    }
    pub fn end(&mut self, _: &mut Vec<u8>) -> bool {
        false
    }
}
