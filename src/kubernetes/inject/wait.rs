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

/// Waits, and returns whether it came to that in time.
pub fn wait(port: u16, until: Until, within: Duration) -> bool {
    let begun = Instant::now();
    let mut idle_since = None;
    while begun.elapsed() < within {
        let reached = match until {
            Until::Serving => get(port, "/startupz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")),
            Until::Idle => match get(port, "/metrics").map(|answer| connections(&answer)) {
                Ok(Some(0)) => idle_since.get_or_insert_with(Instant::now).elapsed() >= QUIET,
                Ok(Some(_)) => {
                    idle_since = None;
                    false
                }
                // A sidecar that has gone has no connections.
                Ok(None) | Err(_) => true,
            },
        };
        if reached {
            return true;
        }
        sleep(AGAIN);
    }
    false
}

fn connections(metrics: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix("tollgate_connections "))?.trim().parse().ok()
}

fn get(port: u16, path: &str) -> io::Result<String> {
    let connect = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), ANSWER);
    let mut stream = connect(Ipv4Addr::LOCALHOST.into()).or_else(|_| connect(Ipv6Addr::LOCALHOST.into()))?;
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
    use std::{net::TcpListener, thread};

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

    #[test]
    fn it_waits_until_no_connection_is_open() {
        let port = answering(&["HTTP/1.1 200 OK\r\n\r\ntollgate_connections 2\n", "HTTP/1.1 200 OK\r\n\r\n"]);
        assert!(wait(port, Until::Idle, Duration::from_secs(20)));
        assert_eq!(connections("# TYPE tollgate_connections gauge\ntollgate_connections 7\n"), Some(7));
    }
}
