"""What several papers share: one student and one teacher, peers, a leader."""
