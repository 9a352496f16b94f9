//! What the processes tell the supervisor: lines `word key=value …` on standard output. The
//! supervisor answers on standard input; its end means: stop.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// What it is about: `ready`, `live` or `done`.
    pub(crate) word: String,
    /// Numbers by name.
    pub(crate) numbers: BTreeMap<String, u64>,
}

impl Line {
    /// A line without numbers.
    pub(crate) fn new(word: &str) -> Self {
        Self {
            word: word.to_owned(),
            numbers: BTreeMap::new(),
        }
    }

    /// The line with one more number.
    pub(crate) fn with(mut self, name: &str, number: u64) -> Self {
        self.numbers.insert(name.to_owned(), number);
        self
    }

    /// A number, 0 if the line does not have it.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    /// Reads a line; `None` if it is not one of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let mut line = Self::new(words.next()?);
        if !["ready", "live", "done"].contains(&line.word.as_str()) {
            return None;
        }
        for pair in words {
            let (name, number) = pair.split_once('=')?;
            line.numbers.insert(name.to_owned(), number.parse().ok()?);
        }
        Some(line)
    }

    /// Prints the line for the supervisor.
    pub(crate) fn say(&self) -> Result<(), String> {
        let mut text = self.word.clone();
        for (name, number) in &self.numbers {
            text.push_str(&format!(" {name}={number}"));
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(|error| format!("the supervisor does not listen: {error}"))
    }
}

/// What the supervisor orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// To the producer: send.
    Go,
    /// To the producer: send no more.
    Stop,
    /// To a consumer: read what is left and say `done`.
    End,
    /// End the process; the supervisor may be gone.
    Leave,
}

/// The supervisor's orders, in a channel. Its end means [`Order::Leave`].
pub(crate) fn orders() -> Receiver<Order> {
    let (send, orders) = channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let order = match line.trim() {
                "go" => Order::Go,
                "stop" => Order::Stop,
                "end" => Order::End,
                _ => Order::Leave,
            };
            if send.send(order).is_err() {
                return;
            }
        }
    });
    orders
}

/// The next order if there is one.
pub(crate) fn look(orders: &Receiver<Order>) -> Option<Order> {
    match orders.try_recv() {
        Ok(order) => Some(order),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => Some(Order::Leave),
    }
}

/// Waits for an order, ignoring others; [`Order::Leave`] always ends the wait.
pub(crate) fn wait_for(orders: &Receiver<Order>, wanted: Order) -> Order {
    loop {
        match orders.recv() {
            Ok(order) if order == wanted || order == Order::Leave => return order,
            Ok(_) => {}
            Err(_) => return Order::Leave,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_other_text_is_not() {
        let line = Line::parse("live frames=3 lost=0").unwrap();
        assert_eq!(line, Line::new("live").with("frames", 3).with("lost", 0));
        assert_eq!(Line::parse("warning: something"), None);
    }
}
