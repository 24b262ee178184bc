//! Timers for waits that nearly never last: each request begins some, and none of them is to cost anything.
//!
//! A wait that has to go on looks up the bell of its tick and listens to it; what ends in time just leaves. Nothing asks
//! for the time: a thread counts ticks of at least ten milliseconds and rings. So a timer goes off up to two ticks late (a
//! second late beyond ten seconds), later by as much as the machine kept its ticks waiting, and never early.
//! (`pingora-timeout` works in this way too; it asks for the time seven times for each wait, and allocates.)

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

const TICK: Duration = Duration::from_millis(10);
/// Waits of more ticks than this end with a tick that divides by the second number, so that few bells hang for long.
const LONG: u64 = 1_000;
const COARSE: u64 = 100;
/// Threads take turns at so many sets of bells.
const SHARDS: usize = 16;

/// The time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Waits for `work`, but no longer than `limit`.
pub async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    let mut bell = pin!(None::<OwnedNotified>);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Ok(done));
        }
        if bell.is_none() {
            bell.set(Some(BELLS.after(limit)));
        }
        match bell.as_mut().as_pin_mut() {
            Some(bell) => bell.poll(context).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Waits so long, from the first time that it is asked.
pub async fn sleep(time: Duration) {
    BELLS.after(time).await;
}

struct Bells {
    /// The tick that is running.
    now: AtomicU64,
    shards: [Mutex<BTreeMap<u64, Arc<Notify>>>; SHARDS],
}

static BELLS: LazyLock<Bells> = LazyLock::new(|| {
    // Without its thread nothing would ever be over.
    let ticking = std::thread::Builder::new().name("timers".to_owned()).spawn(tick);
    if let Err(error) = ticking {
        tracing::error!(%error, "no thread for timers: waits have no limit");
    }
    Bells { now: AtomicU64::new(0), shards: Default::default() }
});

fn tick() {
    let mut now = 0;
    loop {
        std::thread::sleep(TICK);
        // A tick that was late is not made up for: waits that began by a count that stood still would be over early.
        now += 1;
        BELLS.ring(now);
    }
}

impl Bells {
    fn after(&self, time: Duration) -> OwnedNotified {
        let ticks = u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX >> 1);
        // The running tick may be over in a moment.
        let mut at = self.now.load(Ordering::Acquire).saturating_add(ticks).saturating_add(1);
        if ticks > LONG {
            at = at.next_multiple_of(COARSE);
        }
        let mut shard = self.shards[shard()].lock();
        let bell = Arc::clone(shard.entry(at).or_default());
        // One that is being listened to is heard, though it was never waited for.
        let heard = bell.notified_owned();
        // Rung between the look at the clock and the lock: nobody would ring it again.
        if at <= self.now.load(Ordering::Acquire)
            && let Some(bell) = shard.remove(&at)
        {
            bell.notify_waiters();
        }
        heard
    }

    fn ring(&self, now: u64) {
        self.now.store(now, Ordering::Release);
        for shard in &self.shards {
            let due = {
                let mut shard = shard.lock();
                if shard.first_key_value().is_none_or(|(at, _)| *at > now) {
                    continue;
                }
                let later = shard.split_off(&(now + 1));
                std::mem::replace(&mut *shard, later)
            };
            due.values().for_each(|bell| bell.notify_waiters());
        }
    }
}

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    SHARD.with(|shard| *shard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn a_wait_ends_after_its_time_and_not_before() {
        for wanted in [1, 10, 25, 120] {
            let wanted = Duration::from_millis(wanted);
            let begun = Instant::now();
            assert_eq!(timeout(wanted, std::future::pending::<()>()).await, Err(Elapsed));
            let took = begun.elapsed();
            assert!(took >= wanted && took < wanted + Duration::from_secs(20), "{wanted:?}: {took:?}");
            let begun = Instant::now();
            sleep(wanted).await;
            assert!(begun.elapsed() >= wanted);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_ends_in_time_is_given_and_nothing_waits_for_ever() {
        assert_eq!(timeout(Duration::ZERO, async { 7 }).await, Ok(7));
        let soon = tokio::time::sleep(Duration::from_millis(30));
        assert_eq!(timeout(Duration::from_secs(60), soon).await, Ok(()));
        let many = (0..2_000_u64).map(|n| tokio::spawn(sleep(Duration::from_millis(n % 60))));
        for one in many.collect::<Vec<_>>() {
            tokio::time::timeout(Duration::from_secs(20), one).await.unwrap().unwrap();
        }
    }

    #[test]
    fn long_waits_share_their_bells() {
        let bells = Bells { now: AtomicU64::new(5), shards: Default::default() };
        let hung = |bells: &Bells| bells.shards.iter().map(|shard| shard.lock().len()).sum::<usize>();
        for tick in 0..1_000 {
            bells.now.store(tick, Ordering::Release);
            drop(bells.after(Duration::from_secs(600)));
        }
        assert!(hung(&bells) <= 12, "{}", hung(&bells));
        bells.ring(62_000);
        assert_eq!(hung(&bells), 0);
        drop(bells.after(Duration::MAX));
        assert_eq!(hung(&bells), 1);
    }
}
