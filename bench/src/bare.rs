//! The bare server: what a request costs when nothing is done for it.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// Bytes of the answer
    #[arg(long, default_value_t = 1)]
    answer: usize,
}

#[tokio::main]
pub(crate) async fn run(config: &Config) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([0, 0, 0, 0], 0).into())?;
    let listener = socket.listen(4096)?;
    println!("peers connect to  {}", listener.local_addr()?);
    let answer: Arc<[u8]> = vec![b'0'; config.answer].into();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, Arc::clone(&answer)));
    }
}

/// Reads a terminated request of three fields, which ends at its third NUL, and answers.
async fn serve(mut stream: TcpStream, answer: Arc<[u8]>) -> std::io::Result<()> {
    let mut bytes = [0; 1044];
    let mut len = 0;
    while bytes[..len].iter().filter(|byte| **byte == 0).count() < 3 {
        match stream.read(&mut bytes[len..]).await? {
            0 => return Ok(()),
            more => len += more,
        }
    }
    stream.write_all(&answer).await
}
