//! Takes the place of Jaeger where its image cannot be had: receives spans over OTLP on
//! port 4317 and answers Jaeger's trace query over HTTP on port 16686.

use lonja_testing::TraceReceiver;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let receiver = TraceReceiver::start("0.0.0.0:4317", "0.0.0.0:16686").await?;
    println!("spans on {}, queries on {}", receiver.otlp(), receiver.query());
    receiver.ended().await;
    Ok(())
}
