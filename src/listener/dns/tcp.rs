//! The stub resolver over TCP (RFC 7766): the same answers, a message at a time, each after its length.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{MAX_QUERY, Names, answer};
use crate::config::Upstreams;

/// Answers queries on connections to this listener until `shutdown`. `upstreams` gives the destinations in force at that
/// moment. One connection too many waits until another ends.
pub async fn serve(
    listener: TcpListener,
    names: Arc<Names>,
    upstreams: impl Fn() -> Arc<Upstreams> + Clone + Send + Sync + 'static,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, agent)) => {
                    let (names, upstreams) = (Arc::clone(&names), upstreams.clone());
                    connections.spawn(async move { converse(stream, agent, &names, &upstreams).await });
                }
                // Out of descriptors, most likely.
                Err(error) => {
                    tracing::warn!(%error, "a connection to the stub resolver could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
}

/// Until the agent ends it, says nothing for a while, or says what is no query.
async fn converse(
    mut stream: TcpStream,
    agent: SocketAddr,
    names: &Names,
    upstreams: &(impl Fn() -> Arc<Upstreams> + Sync),
) -> Option<()> {
    let mut buffer = [0; MAX_QUERY];
    loop {
        let length = timeout(PATIENCE, stream.read_u16()).await.ok()?.ok()?;
        let query = buffer.get_mut(..usize::from(length))?;
        timeout(PATIENCE, stream.read_exact(query)).await.ok()?.ok()?;
        let answer = answer(query, agent.ip(), names, &upstreams())?;
        let length = u16::try_from(answer.len()).ok()?;
        let message = [&length.to_be_bytes()[..], &answer].concat();
        timeout(PATIENCE, stream.write_all(&message)).await.ok()?.ok()?;
    }
}

/// Resolvers use TCP when an answer did not fit, which none of these does.
const CONNECTIONS: usize = 32;

const PATIENCE: Duration = Duration::from_secs(5);
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use hickory_proto::op::Message;

    use super::*;
    use crate::listener::dns::PROOF_NAME;

    #[tokio::test]
    async fn it_answers_one_message_after_another() {
        use hickory_proto::{
            op::{MessageType, OpCode, Query},
            rr::{Name, RecordType},
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shutdown = CancellationToken::new();
        let none = || Arc::new(Upstreams::default());
        let server = tokio::spawn(serve(listener, Arc::new(Names::new()), none, shutdown.clone()));

        let mut agent = TcpStream::connect(address).await.expect("connected");
        for id in [7, 8] {
            let mut query = Message::new(id, MessageType::Query, OpCode::Query);
            query.add_query(Query::query(Name::from_ascii(PROOF_NAME).expect("a name"), RecordType::TXT));
            let bytes = query.to_vec().expect("encodes");
            agent.write_u16(u16::try_from(bytes.len()).expect("short")).await.expect("sent");
            agent.write_all(&bytes).await.expect("sent");
            let mut answer = vec![0; usize::from(agent.read_u16().await.expect("answered"))];
            agent.read_exact(&mut answer).await.expect("answered");
            let answer = Message::from_vec(&answer).expect("a message");
            assert_eq!((answer.metadata.id, answer.answers.len()), (id, 1));
        }
        agent.write_all(&[0, 2, 0xff, 0xff]).await.expect("sent");
        assert!(agent.read_u16().await.is_err(), "what is no query ends the conversation");
        shutdown.cancel();
        server.await.expect("it ends by itself");
    }
}
