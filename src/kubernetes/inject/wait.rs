//! Waits for the sidecar of this pod: the hooks of the older form, where the kubelet does not keep the order itself.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It serves.
    Serving,
    /// No connection has been open for a moment.
    Idle,
}

/// Waits, and returns whether it came to that in time. Looks at least once.
pub fn wait(port: u16, until: Until, within: Duration) -> bool {
    let begun = Instant::now();
    let mut idle_since = None;
    loop {
        let reached = match until {
            Until::Serving => get(port, "/startupz").is_ok_and(|answer| is_good(&answer)),
            Until::Idle => match load(get(port, "/metrics")) {
                Load::Gone => true,
                Load::Idle => idle_since.get_or_insert_with(Instant::now).elapsed() >= QUIET,
                Load::Busy => {
                    idle_since = None;
                    false
                }
            },
        };
        if reached {
            return true;
        }
        let left = within.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return false;
        }
        sleep(AGAIN.min(left));
    }
}

/// What the sidecar's metrics say of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// None is open.
    Idle,
    /// Some are open, or nobody knows.
    Busy,
    /// There is no sidecar, so nothing can be open.
    Gone,
}

fn load(answer: io::Result<String>) -> Load {
    match answer {
        Ok(answer) if is_good(&answer) && connections(&answer) == Some(0) => Load::Idle,
        Ok(_) => Load::Busy,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Load::Gone,
        Err(_) => Load::Busy,
    }
}

fn is_good(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}

fn connections(metrics: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix("tollgate_connections "))?.trim().parse().ok()
}

fn get(port: u16, path: &str) -> io::Result<String> {
    let connect = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), ANSWER);
    // Where there is no IPv6, what IPv4 said is the answer.
    let mut stream = connect(Ipv4Addr::LOCALHOST.into())
        .or_else(|refused| connect(Ipv6Addr::LOCALHOST.into()).map_err(|_| refused))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    Ok(answer)
}

const AGAIN: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(2);
/// An agent that is about to end may open a further connection within this time.
const QUIET: Duration = Duration::from_secs(1);
const LONGEST: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::*;

    /// Answers each request with the next of these texts, then goes away.
    fn answering(texts: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for text in texts {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 512];
                let _ = stream.read(&mut head).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
            }
        });
        port
    }

    #[test]
    fn it_waits_until_the_sidecar_serves() {
        let port = answering(&["HTTP/1.1 503 no\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nok\n"]);
        assert!(wait(port, Until::Serving, Duration::from_secs(20)));
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(!wait(nobody, Until::Serving, Duration::from_millis(1)));
    }

    /// As [`answering`], but repeats the last text for ever. Also tells how many were asked for.
    fn repeating(texts: &'static [&'static str]) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 512];
                let _ = stream.read(&mut head).unwrap();
                let at = count.fetch_add(1, Ordering::Relaxed).min(texts.len() - 1);
                stream.write_all(texts[at].as_bytes()).unwrap();
            }
        });
        (port, asked)
    }

    #[test]
    fn it_waits_until_no_connection_has_been_open_for_a_moment() {
        let begun = Instant::now();
        let (port, asked) = repeating(&[
            "HTTP/1.1 200 OK\r\n\r\ntollgate_connections 2\n",
            "HTTP/1.1 200 OK\r\n\r\ntollgate_connections 0\n",
            "HTTP/1.1 200 OK\r\n\r\ntollgate_connections 0\n",
        ]);
        assert!(wait(port, Until::Idle, Duration::from_secs(20)));
        assert!(asked.load(Ordering::Relaxed) > 2);
        assert!(begun.elapsed() >= QUIET);
    }

    #[test]
    fn a_connection_that_opens_in_between_begins_the_moment_anew() {
        let (port, asked) = repeating(&[
            "HTTP/1.1 200 OK\r\n\r\ntollgate_connections 0\n",
            "HTTP/1.1 200 OK\r\n\r\ntollgate_connections 1\n",
        ]);
        assert!(!wait(port, Until::Idle, QUIET + AGAIN));
        assert!(asked.load(Ordering::Relaxed) > 2);
    }

    #[test]
    fn only_a_sidecar_that_has_gone_needs_no_number() {
        let refused = || Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        for (answer, expected) in [
            (Ok("HTTP/1.1 200 OK\r\n\r\n# TYPE tollgate_connections gauge\ntollgate_connections 0\n"), Load::Idle),
            (Ok("HTTP/1.1 200 OK\r\n\r\ntollgate_connections 7\n"), Load::Busy),
            (Ok("HTTP/1.1 200 OK\r\n\r\n"), Load::Busy),
            (Ok("HTTP/1.1 200 OK\r\n\r\ntollgate_connections many\n"), Load::Busy),
            (Ok("HTTP/1.1 503 no\r\n\r\ntollgate_connections 0\n"), Load::Busy),
            (Err(io::Error::from(io::ErrorKind::TimedOut)), Load::Busy),
            (refused(), Load::Gone),
        ] {
            let seen = format!("{answer:?}");
            assert_eq!(load(answer.map(str::to_owned)), expected, "{seen}");
        }
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(wait(nobody, Until::Idle, Duration::ZERO));
    }

    #[test]
    fn without_time_it_looks_once() {
        let (port, asked) = repeating(&["HTTP/1.1 200 OK\r\n\r\ntollgate_connections 0\n"]);
        assert!(!wait(port, Until::Idle, Duration::ZERO));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(wait(answering(&["HTTP/1.1 200 OK\r\n\r\nok\n"]), Until::Serving, Duration::ZERO));
    }
}
