"""Maps that several replicas share: kept on an object store or in a shared folder, copied here and checked."""
