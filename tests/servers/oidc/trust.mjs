// Whom the authorization server believes. Tests write the file TRUST, which is read for each token:
//   users:   { issuer: JWKS }                 who may say which user it is
//   agents:  { issuer or trust domain: JWKS } who may say which agent it is; "spiffe://…" has a SPIFFE bundle
//   clients: { id: { jwks, actor: { iss, sub } } }
//            jwks for RFC 7523; a SPIFFE ID has none, and shows its JWT-SVID; actor where it is not the id
import fs from 'node:fs';
import * as jose from 'jose';

const ALGORITHMS = ['ES256', 'ES384', 'PS256', 'RS256', 'EdDSA', 'Ed25519'];
const LEEWAY = 5; // seconds

const read = () => JSON.parse(fs.readFileSync(process.env.TRUST, 'utf8'));

export const client = (id) => (Object.hasOwn(read().clients, id) ? read().clients[id] : undefined);

export const trustDomain = (id) => /^spiffe:\/\/[a-z0-9._-]+(?=\/)/.exec(id)?.[0];

// a JWT-SVID needs no iss: its trust domain is in its subject, and vouches for nobody else
const issuerOf = ({ iss, sub }) => trustDomain(sub) ?? iss;

// SPIFFE marks the keys that sign JWT-SVIDs, with a use that jose does not know
const keys = (issuer, jwks) => (issuer.startsWith('spiffe://')
  ? { keys: jwks.keys.filter((key) => key.use === 'jwt-svid').map(({ use, ...key }) => key) }
  : jwks);

/** Return the claims of a token that one of the *role* ("users" or "agents") has signed for *audience*. */
export async function verify(role, token, audience) {
  const issuer = issuerOf(jose.decodeJwt(token));
  const trusted = read()[role];
  if (!Object.hasOwn(trusted, issuer)) throw new Error('its issuer is not trusted');
  const { payload } = await jose.jwtVerify(token, jose.createLocalJWKSet(keys(issuer, trusted[issuer])), {
    audience, algorithms: ALGORITHMS, clockTolerance: LEEWAY, requiredClaims: ['sub', 'exp'],
  });
  return { ...payload, iss: issuer };
}
