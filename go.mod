module otel-demo

go 1.26.0
