"""The direction cache on disk: one pseudonym per person across runs, for those who ask for it.

What an entry holds, all of it under AES-256-GCM with keys derived from a secret that is not in the cache:

- a protected template to recognise the person by: signs of a keyed random projection of the identity;
- the direction (coordinates, noise, row of the pseudonym bank) and its provenance. It is encrypted because a direction
  is a function of the face it was found for, and because whoever has it can take the edit back.

In clear: times, the number of uses, sizes, a random id, and a digest of model and parameters; once, the lock: its kind,
salt and check, by which the secret is known again. Losing the cache loses continuity, no more.
"""
