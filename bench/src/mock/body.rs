//! A response body that follows steps: send, flush, wait, beat, stall, close, reset.
//!
//! A channel-fed body would need a task for every answer; this one is polled by the connection itself, costs nothing
//! while it waits, and dies with the connection, which is how a client's departure is noticed.

use super::ledger::InFlight;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::vec;
use tokio::time::{Instant, Sleep};

/// One thing to do with the body.
pub(super) enum Step {
    /// Hand over these bytes.
    Send(Bytes),
    /// Let hyper write what it has before it is given more: it would otherwise gather all that is ready in one write.
    Flush,
    /// Go on after this time, counted from when the previous wait should have ended, so that a pace does not drift.
    Wait(Duration),
    /// Never go on.
    Stall,
    /// Send this again and again, a beat apart, without an end.
    Beat(Heartbeat),
    /// Close the connection in the middle of the answer.
    Close,
    /// End the connection with RST.
    Reset,
}

/// What a provider sends to show that it is alive while it has nothing to say.
pub(super) enum Heartbeat {
    Same(Bytes),
    /// The event of OpenAI's responses, which are numbered.
    Numbered(u64),
}

impl Heartbeat {
    fn next(&mut self) -> Bytes {
        match self {
            Heartbeat::Same(bytes) => bytes.clone(),
            Heartbeat::Numbered(number) => {
                let event =
                    format!("event: keepalive\ndata: {{\"type\":\"keepalive\",\"sequence_number\":{number}}}\n\n");
                *number += 1;
                Bytes::from(event)
            }
        }
    }
}

/// The time between two heartbeats.
const BEAT: Duration = Duration::from_millis(100);

/// A body that follows its steps and then counts as completed.
pub(super) struct Scripted {
    steps: vec::IntoIter<Step>,
    /// What the header declares; a chunked body declares nothing.
    content_length: Option<u64>,
    /// Absent for the control endpoints, which are not counted.
    in_flight: Option<InFlight>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the last wait should have ended.
    paced_until: Option<Instant>,
    /// Whether the next heartbeat is due.
    beat_due: bool,
}

impl Scripted {
    pub(super) fn new(steps: Vec<Step>, content_length: Option<u64>, in_flight: Option<InFlight>) -> Scripted {
        Scripted {
            steps: steps.into_iter(),
            content_length,
            in_flight,
            sleep: None,
            paced_until: None,
            beat_due: false,
        }
    }

    fn finish(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.finish();
        }
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = Closed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Closed>>> {
        let this = self.get_mut();
        loop {
            if let Some(sleep) = &mut this.sleep {
                ready!(sleep.as_mut().poll(context));
                this.sleep = None;
            }
            match this.steps.as_mut_slice().first_mut() {
                // What no step follows stays the next one: the body must not look as if it had ended.
                Some(Step::Stall) => return Poll::Pending,
                Some(Step::Reset) => {
                    if let Some(in_flight) = &mut this.in_flight {
                        in_flight.reset();
                    }
                    return Poll::Pending;
                }
                Some(Step::Beat(heartbeat)) => {
                    if std::mem::replace(&mut this.beat_due, true) {
                        this.beat_due = false;
                        return Poll::Ready(Some(Ok(Frame::data(heartbeat.next()))));
                    }
                    this.sleep = Some(Box::pin(tokio::time::sleep(BEAT)));
                    continue;
                }
                None => {
                    this.finish();
                    return Poll::Ready(None);
                }
                Some(_) => {}
            }
            match this.steps.next() {
                Some(Step::Send(bytes)) => {
                    // hyper does not poll again after the last frame.
                    if this.is_end_stream() {
                        this.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Flush) => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Step::Wait(time)) => {
                    let until = this.paced_until.unwrap_or_else(Instant::now) + time;
                    this.paced_until = Some(until);
                    this.sleep = Some(Box::pin(tokio::time::sleep_until(until)));
                }
                Some(Step::Close) => {
                    this.finish();
                    return Poll::Ready(Some(Err(Closed)));
                }
                Some(Step::Stall | Step::Beat(_) | Step::Reset) | None => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.as_slice().is_empty() && self.sleep.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.content_length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The script asked for the connection to be closed.
#[derive(Debug)]
pub(super) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("the script closes the connection")
    }
}

impl std::error::Error for Closed {}
