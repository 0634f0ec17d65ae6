"""Strict compact JWS (RFC 7515): all tokens and proofs are signed and verified here.

A signature proves who wrote a token, but libraries accept several spellings of it. They accept padding,
let the last of two equal keys win, ignore `typ`, and use the algorithm that the token itself names.
Here a token has exactly one spelling, a key one algorithm, and a use one `typ`.

    encoding    JSON and base64url with one spelling, and the claims that are read
    keys        public keys: the kind of a key determines its algorithm
    jws         signs and verifies
    rsa         RS256, for security event tokens alone
    key_source  key sets in files and at URLs, read again when they may have changed
    key_table   the keys of a set by their `kid`
"""

from agentguard.jose.encoding import (
    Json,
    b64url,
    dpop_key,
    is_revocation,
    number_claim,
    revocation_key,
    strict_json,
    text_claim,
    token_hash,
    unb64url,
    unverified_claims,
    unverified_parts,
)
from agentguard.jose.jws import Jws, PrivateKey, Signer, decode
from agentguard.jose.keys import (
    ALGORITHM_NAMES,
    ALGORITHMS,
    Algorithm,
    OtherKind,
    public_jwk,
    public_key,
    set_key,
    thumbprint,
)
from agentguard.jose.rsa import RSA_BITS, RsaSigner
from agentguard.outbound.destinations import htu

__all__ = [
    "ALGORITHMS",
    "ALGORITHM_NAMES",
    "RSA_BITS",
    "Algorithm",
    "Json",
    "Jws",
    "OtherKind",
    "PrivateKey",
    "RsaSigner",
    "Signer",
    "b64url",
    "decode",
    "dpop_key",
    "htu",
    "is_revocation",
    "number_claim",
    "public_jwk",
    "public_key",
    "revocation_key",
    "set_key",
    "strict_json",
    "text_claim",
    "thumbprint",
    "token_hash",
    "unb64url",
    "unverified_claims",
    "unverified_parts",
]
