//! What happened to tasks, in order, for whoever started the shim and wants to be told.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use kelson_shim_proto::containerd::events::{Event, What};
use kelson_shim_proto::time::Time;
use tokio::sync::Notify;

use crate::diagnostics;
use crate::error::lock;

/// How many events wait for a listener that is away (containerd restarts). Beyond it the oldest go, which by then tell
/// nothing that the listener does not ask for when it is back.
const MAX_QUEUED: usize = 4096;

/// A queue of events, or nobody who listens.
#[derive(Clone, Debug, Default)]
pub struct Events {
    queue: Option<Arc<Queue>>,
}

/// Events that wait.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    /// Woken when there is one.
    some: Notify,
    /// Woken when there is none any more.
    none: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<(Event, Time)>,
    dropped: u64,
}

impl Events {
    /// A queue, and its other end.
    pub fn queue() -> (Self, Arc<Queue>) {
        let queue = Arc::<Queue>::default();
        let events = Self {
            queue: Some(Arc::clone(&queue)),
        };
        (events, queue)
    }

    /// Whether anybody is told.
    pub fn has_listener(&self) -> bool {
        self.queue.is_some()
    }

    /// Says what happened to the task of container `id`, now.
    pub fn tell(&self, id: &str, what: What) {
        let Some(queue) = &self.queue else { return };
        let event = Event {
            id: id.to_owned(),
            what,
        };
        let mut inner = lock(&queue.inner);
        if inner.events.len() == MAX_QUEUED {
            inner.events.pop_front();
            inner.dropped += 1;
            if inner.dropped.is_power_of_two() {
                let total = inner.dropped;
                diagnostics::report(&format!("nobody takes events: {total} dropped, the oldest first"));
            }
        }
        inner.events.push_back((event, Time::now()));
        queue.some.notify_one();
    }
}

impl Queue {
    /// Waits for the oldest event; it stays in the queue.
    pub async fn front(&self) -> (Event, Time) {
        loop {
            let some = self.some.notified();
            if let Some(front) = lock(&self.inner).events.front() {
                return front.clone();
            }
            some.await;
        }
    }

    /// The oldest event, which was `event`, was taken. It may have been dropped meanwhile.
    pub fn taken(&self, event: &(Event, Time)) {
        let mut inner = lock(&self.inner);
        if inner.events.front() == Some(event) {
            inner.events.pop_front();
        }
        if inner.events.is_empty() {
            inner.events = VecDeque::new();
            self.none.notify_waiters();
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        lock(&self.inner).events.is_empty()
    }

    /// Returns once nothing waits.
    pub async fn drained(&self) {
        loop {
            let none = self.none.notified();
            tokio::pin!(none);
            none.as_mut().enable();
            if self.is_empty() {
                return;
            }
            none.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn in_order_and_bounded() {
        let (events, queue) = Events::queue();
        for pid in 0..5000 {
            events.tell("c", What::Start { pid });
        }
        for pid in 5000 - 4096..5000 {
            let front = queue.front().await;
            assert_eq!(front.0.what, What::Start { pid });
            queue.taken(&front);
        }
        assert!(queue.is_empty());
        queue.drained().await;
        Events::default().tell("c", What::Oom);
    }
}
