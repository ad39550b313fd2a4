//! The queue between the threads of the server and the one thread that owns a log's file or stream.
//!
//! The queue is bounded by bytes. A debug line that finds it full is dropped and counted; any other line waits,
//! but never for long: if the sink makes no progress for [`PATIENCE`], lines are dropped and counted until it
//! does, because a server that stops serving for want of a log disk would be worse. The bound cannot deadlock:
//! the writing thread takes everything at once and never logs.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::rotate::{RotatingFile, complain};

const MAX_PENDING_BYTES: usize = 4 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(1);
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// Where lines end up.
pub(super) enum Sink {
    File(RotatingFile),
    Stream(Box<dyn Write + Send>),
}

/// What becomes of a line when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// Wait for room: audit lines and everything from info upwards.
    Keep,
    /// Drop and count.
    MayDrop,
}

/// The sending side of a log.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Lines ever accepted, and of those the ones that reached the sink.
    accepted: u64,
    written: u64,
    dropped: u64,
    /// The sink made no progress for too long; nobody waits for it now.
    stalled: bool,
    reopen: bool,
    closed: bool,
}

/// The writing thread; dropping this writes what is pending and ends it.
pub(super) struct Writer {
    pub(super) queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `dropped_notice` makes the line that reports how many lines were lost.
    pub(super) fn spawn(
        name: &str,
        sink: Sink,
        dropped_notice: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue { max_bytes: MAX_PENDING_BYTES, ..Queue::default() });
        let taken = queue.clone();
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || run(&taken, sink, dropped_notice))?;
        Ok(Self { queue, thread: Some(thread) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.flush();
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        // A sink that hangs must not keep the process from ending.
        if !self.queue.lock().stalled
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Queue {
    /// Hands over one line with its line feed.
    pub(super) fn push(&self, line: &str, priority: Priority) {
        let mut state = self.lock();
        let is_full =
            |state: &State| !state.pending.is_empty() && state.pending.len() + line.len() > self.max_bytes;
        if is_full(&state) && priority == Priority::Keep && !state.stalled {
            let deadline = Instant::now() + PATIENCE;
            while is_full(&state) && !state.closed {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    state.stalled = true;
                    break;
                }
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        if is_full(&state) || state.closed {
            state.dropped += 1;
            return;
        }
        state.pending.extend_from_slice(line.as_bytes());
        state.accepted += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Asks for the file to be closed and opened again.
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.changed.notify_all();
    }

    /// Waits, but not for ever, until everything handed over so far is written.
    pub(super) fn flush(&self) {
        let deadline = Instant::now() + FLUSH_PATIENCE;
        let mut state = self.lock();
        let target = state.accepted;
        while state.written < target || state.reopen {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.stalled = true;
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The state is a few counters and a buffer, consistent even after a panic elsewhere.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(queue: &Queue, mut sink: Sink, dropped_notice: impl Fn(u64) -> String) {
    let mut batch = Vec::new();
    let mut has_complained = false;
    loop {
        let mut state = queue.lock();
        while state.pending.is_empty() && !state.reopen && !state.closed {
            state = queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.pending.is_empty() && !state.reopen {
            return;
        }
        std::mem::swap(&mut batch, &mut state.pending);
        let (reopen, dropped, accepted) = (state.reopen, std::mem::take(&mut state.dropped), state.accepted);
        drop(state);
        queue.changed.notify_all();

        if dropped > 0 {
            batch.extend_from_slice(dropped_notice(dropped).as_bytes());
        }
        let result = if reopen { sink.reopen() } else { Ok(()) }.and_then(|()| sink.write_lines(&batch));
        match result {
            Ok(()) => has_complained = false,
            Err(error) if !has_complained => {
                complain(&format!("cannot write to the log, lines are lost: {error}"));
                has_complained = true;
            }
            Err(_) => {}
        }
        batch.clear();
        batch.shrink_to(MAX_PENDING_BYTES / 16);

        let mut state = queue.lock();
        state.written = accepted;
        state.stalled = false;
        state.reopen &= !reopen;
        drop(state);
        queue.changed.notify_all();
    }
}

impl Sink {
    fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_lines(lines),
            Self::Stream(stream) => stream.write_all(lines).and_then(|()| stream.flush()),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.reopen(),
            Self::Stream(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink whose writes wait for the test's permission.
    #[derive(Clone, Default)]
    struct Gate {
        open: Arc<(Mutex<bool>, Condvar)>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Gate {
        fn open(&self) {
            *self.open.0.lock().unwrap() = true;
            self.open.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Gate {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let open = self.open.0.lock().unwrap();
            drop(self.open.1.wait_while(open, |open| !*open).unwrap());
            self.text.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer(gate: &Gate) -> Writer {
        let sink = Sink::Stream(Box::new(gate.clone()));
        Writer::spawn("test", sink, |count| format!("{count} dropped\n")).unwrap()
    }

    #[test]
    fn lines_arrive_in_order_and_dropping_the_writer_waits_for_them() {
        let gate = Gate::default();
        gate.open();
        let writer = writer(&gate);
        for number in 0..1000 {
            writer.queue.push(&format!("{number}\n"), Priority::Keep);
        }
        drop(writer);
        let expected: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(gate.text(), expected);
    }

    #[test]
    fn a_full_queue_drops_debug_lines_and_says_how_many() {
        let gate = Gate::default();
        let writer = writer(&gate);
        let line = format!("{}\n", "x".repeat(MAX_PENDING_BYTES / 4 - 1));
        writer.queue.push("first\n", Priority::Keep);
        // Until the thread has taken the first line, the queue has less room.
        while !writer.queue.lock().pending.is_empty() {
            std::thread::yield_now();
        }
        for _ in 0..6 {
            writer.queue.push(&line, Priority::MayDrop);
        }
        assert_eq!(writer.queue.lock().dropped, 2);
        gate.open();
        writer.queue.push("kept\n", Priority::Keep);
        drop(writer);
        let text = gate.text();
        assert!(text.starts_with("first\n") && text.contains("kept\n") && text.contains("2 dropped\n"));
        assert_eq!(text.matches(&line).count(), 4);
    }

    #[test]
    fn a_sink_that_hangs_costs_one_wait_and_then_none() {
        let gate = Gate::default();
        let writer = writer(&gate);
        let line = format!("{}\n", "x".repeat(MAX_PENDING_BYTES / 2));
        let start = Instant::now();
        for _ in 0..20 {
            writer.queue.push(&line, Priority::Keep);
        }
        assert!(writer.queue.lock().dropped >= 17);
        assert!(start.elapsed() < PATIENCE * 3, "{:?}", start.elapsed());
        gate.open();
        writer.queue.flush();
        writer.queue.push("again\n", Priority::Keep);
        drop(writer);
        assert!(gate.text().ends_with("again\n") || gate.text().contains("again\n"));
    }
}
