"""Maps shared by several replicas: kept in an object store or a shared folder, copied to each host and verified."""
