"""KServe's Open Inference Protocol (v2) over HTTP and gRPC, on the way that the service's own requests go."""
