"""Where the pages of datasets lie: a folder or S3, by checksum. The registry knows which dataset has which blobs."""
