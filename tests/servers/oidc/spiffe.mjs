// A JWT-SVID as client assertion (draft-ietf-oauth-spiffe-client-auth), which oidc-provider does not know and
// has no extension point for. This stands before it: an SVID that holds is exchanged for an RFC 7523
// assertion by a key that exists only here, so all the rest of the authentication stays the provider's.
import * as jose from 'jose';
import { client, trustDomain, verify } from './trust.mjs';

const SPIFFE = 'urn:ietf:params:oauth:client-assertion-type:jwt-spiffe';
const BEARER = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer';
const LIMIT = 64 * 1024; // bytes

const own = await jose.generateKeyPair('ES256');
export const jwks = { keys: [{ ...await jose.exportJWK(own.publicKey), alg: 'ES256' }] };

async function text(stream) {
  let body = '';
  for await (const chunk of stream) {
    body += chunk;
    if (body.length > LIMIT) throw new Error('the request is too long');
  }
  return body;
}

async function authenticate(assertion, issuer) {
  const { sub } = await verify('agents', assertion, issuer);
  if (!trustDomain(sub) || !client(sub)) throw new Error('this workload is no client');
  return new jose.SignJWT({}).setProtectedHeader({ alg: 'ES256' }).setIssuer(sub).setSubject(sub)
    .setAudience(issuer).setJti(crypto.randomUUID()).setExpirationTime('10s').sign(own.privateKey);
}

export const clientAuthentication = (issuer) => async (ctx, next) => {
  if (ctx.method === 'POST') {
    const form = new URLSearchParams(await text(ctx.req));
    const types = form.getAll('client_assertion_type');
    if (types.length === 1 && types[0] === SPIFFE) {
      try {
        form.set('client_assertion', await authenticate(form.get('client_assertion'), issuer));
        form.set('client_assertion_type', BEARER);
      } catch (error) {
        ctx.status = 401;
        ctx.body = { error: 'invalid_client', error_description: `JWT-SVID: ${error.message}` };
        return;
      }
    }
    ctx.req.body = form.toString();
  }
  await next();
};
