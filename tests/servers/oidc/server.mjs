// A real authorization server: oidc-provider, with RFC 8693 token exchange registered as a grant type.
// It needs PORT, FORMAT (opaque or jwt: how access tokens look) and TRUST (see trust.mjs).
import Provider, { errors } from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';
import * as helpers from 'oidc-provider/lib/helpers/grants.js';
import * as jose from 'jose';
import { clientAuthentication, jwks } from './spiffe.mjs';
import * as trust from './trust.mjs';

const { PORT, FORMAT } = process.env;
const ISSUER = `http://127.0.0.1:${PORT}`;
const GRANT = 'urn:ietf:params:oauth:grant-type:token-exchange';
const TYPE = 'urn:ietf:params:oauth:token-type:';
const ID_JAG = `${TYPE}id-jag`;
const LIFETIME = 60; // seconds

const RESOURCES = {
  'https://orders.example': 'orders:read orders:write',
  'https://reports.example': 'reports:read',
};
// what each user may do; an agent that acts for nobody may read orders
const RIGHTS = {
  'user:ada': 'orders:read orders:write reports:read',
  'user:bob': 'orders:read',
};
const AGENT_RIGHTS = 'orders:read';

const words = (text) => new Set((text ?? '').split(' ').filter(Boolean));

const memory = createMemoryAdapter();
const clients = {
  find: async (id) => {
    const known = trust.client(id);
    return known && {
      client_id: id,
      token_endpoint_auth_method: 'private_key_jwt',
      jwks: trust.trustDomain(id) ? jwks : known.jwks,
      grant_types: [GRANT],
      redirect_uris: [],
      response_types: [],
      dpop_bound_access_tokens: true,
      authorization_details_types: ['agentguard_tool_call'],
    };
  },
};

const { privateKey } = await jose.generateKeyPair('ES256', { extractable: true });
const key = { ...await jose.exportJWK(privateKey), kid: 'as', alg: 'ES256', use: 'sig' };

const provider = new Provider(ISSUER, {
  adapter: (model) => (model === 'Client' ? clients : memory(model)),
  jwks: { keys: [key] },
  clientAuthMethods: ['private_key_jwt'],
  clientDefaults: { id_token_signed_response_alg: 'ES256' }, // or else it wants an RSA key
  enabledJWA: { clientAuthSigningAlgValues: ['ES256', 'EdDSA', 'Ed25519', 'PS256', 'RS256'] },
  extraTokenClaims: (ctx, token) => token.extra,
  ttl: { AccessToken: LIFETIME, Grant: LIFETIME },
  features: {
    devInteractions: { enabled: false },
    userinfo: { enabled: false },
    rpInitiatedLogout: { enabled: false },
    // the client that was given the token, and the resource that it is for
    introspection: {
      enabled: true,
      allowedPolicy: (ctx, client, token) => [token.clientId, token.aud].includes(client.clientId),
    },
    revocation: { enabled: true, allowedPolicy: (ctx, client, token) => token.clientId === client.clientId },
    dPoP: {
      enabled: true,
      nonceSecret: crypto.getRandomValues(Buffer.alloc(32)),
      requireNonce: () => true,
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (ctx, resource) => {
        if (!Object.hasOwn(RESOURCES, resource)) throw new errors.InvalidTarget('unknown resource');
        return {
          audience: resource,
          scope: RESOURCES[resource],
          accessTokenFormat: FORMAT,
          accessTokenTTL: LIFETIME,
          jwt: { sign: { alg: 'ES256' } },
        };
      },
    },
    richAuthorizationRequests: {
      enabled: true,
      types: {
        agentguard_tool_call: {
          validate: (ctx, detail) => {
            if (!detail.digest) throw new errors.InvalidAuthorizationDetails('it names no exact call');
          },
        },
      },
      authorizationDetailsForAccessToken: (ctx) => JSON.parse(ctx.oidc.params.authorization_details),
      authorizationDetailsForGrantSource: () => undefined,
      authorizationDetailsForIntrospection: (ctx, token) => token.rar,
    },
  },
});

async function verified(role, name, params) {
  const type = params[`${name}_type`];
  if (!params[name]) throw new errors.InvalidRequest(`${name} is missing`);
  if (![`${TYPE}jwt`, `${TYPE}id_token`, `${TYPE}access_token`].includes(type)) {
    throw new errors.InvalidRequest(`${name}_type is not supported`);
  }
  try {
    return await trust.verify(role, params[name], ISSUER);
  } catch (error) {
    throw new errors.InvalidRequest(`${name}: ${error.message}`);
  }
}

// The agent that this client is, and no other: a client cannot borrow the token of another agent.
async function agent(client, name, params) {
  const { iss, sub } = await verified('agents', name, params);
  const own = trust.client(client.clientId).actor ?? {
    iss: trust.trustDomain(client.clientId) ?? client.clientId, sub: client.clientId,
  };
  if (iss !== own.iss || sub !== own.sub) throw new errors.InvalidRequest(`${name}: it is not this client's`);
  return { iss, sub };
}

// A user's token needs the actor beside it: nobody is impersonated. An agent may be its own subject.
async function parties({ client, params }) {
  let user;
  try {
    user = await verified('users', 'subject_token', params);
  } catch (refusal) {
    if (params.actor_token) throw refusal;
    const { sub } = await agent(client, 'subject_token', params).catch(() => { throw refusal; });
    return { sub, rights: words(AGENT_RIGHTS) };
  }
  if (!Object.hasOwn(RIGHTS, user.sub)) throw new errors.InvalidRequest('subject_token: unknown user');
  if (!params.actor_token) throw new errors.InvalidRequest('a user\'s token needs an actor_token beside it');
  const act = await agent(client, 'actor_token', params);
  const held = words(user.scope ?? RIGHTS[user.sub]);
  return { sub: user.sub, act, rights: new Set([...words(RIGHTS[user.sub])].filter((right) => held.has(right))) };
}

// An assertion of the user's identity for another server (draft-ietf-oauth-identity-assertion-authz-grant):
// for the client that this client is there.
async function assert(ctx) {
  const { client, params } = ctx.oidc;
  if (params.subject_token_type !== `${TYPE}id_token`) throw new errors.InvalidRequest('an ID token is needed');
  const user = await verified('users', 'subject_token', params);
  const there = trust.client(client.clientId).elsewhere?.[params.audience];
  if (!there) throw new errors.InvalidTarget('unknown server');
  const assertion = await new jose.SignJWT({ client_id: there, scope: params.scope, ...trust.client(client.clientId).claims })
    .setProtectedHeader({ alg: 'ES256', kid: key.kid, typ: 'oauth-id-jag+jwt' })
    .setIssuer(ISSUER).setSubject(user.sub).setAudience(params.audience)
    .setIssuedAt().setExpirationTime(`${LIFETIME}s`).setJti(crypto.randomUUID())
    .sign(privateKey);
  ctx.body = {
    access_token: assertion, issued_token_type: ID_JAG, token_type: 'N_A', expires_in: LIFETIME, scope: params.scope,
  };
}

async function exchange(ctx) {
  const { client, params } = ctx.oidc;
  if (params.requested_token_type === ID_JAG) return assert(ctx);
  if ((params.requested_token_type ?? `${TYPE}access_token`) !== `${TYPE}access_token`) {
    throw new errors.InvalidRequest('requested_token_type is not supported');
  }
  if (params.audience !== undefined) throw new errors.InvalidTarget('name the resource, not an audience');
  const proof = await helpers.validateDpop(provider, ctx);
  helpers.checkDpopRequired(provider, ctx, proof);
  await helpers.checkDpopReplay(provider, ctx, proof, client.clientId);

  const [server, ...others] = await helpers.resolveRequestedResources(provider, ctx);
  if (!server || others.length) throw new errors.InvalidTarget('exactly one resource is needed');
  const { sub, act, rights } = await parties(ctx.oidc);
  const scopes = words(params.scope);
  if (!scopes.size) throw new errors.InvalidScope('a scope is needed');
  for (const scope of scopes) {
    if (!server.scopes.has(scope) || !rights.has(scope)) throw new errors.InvalidScope('beyond the rights', scope);
  }

  const grant = new provider.Grant({ accountId: sub, clientId: client.clientId });
  grant.addResourceScope(server.identifier(), params.scope);
  const token = new provider.AccessToken({
    accountId: sub, client, grantId: await grant.save(), gty: GRANT, scope: [...scopes].join(' '),
  });
  token.resourceServer = server;
  token.extra = act && { act };
  token.setThumbprint('jkt', proof.thumbprint);
  await helpers.applyAuthorizationDetails(provider, ctx, token);
  ctx.oidc.entity('AccessToken', token);
  ctx.body = helpers.buildTokenResponse(provider, {
    accessToken: await token.save(),
    authorizationDetails: token.rar,
    expiresIn: token.expiration,
    issuedTokenType: `${TYPE}access_token`,
    scope: token.scope,
    tokenType: token.tokenType,
  });
}

provider.registerGrantType(GRANT, exchange, [
  'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type',
  'audience', 'resource', 'scope', 'authorization_details',
], ['resource']);
provider.use(clientAuthentication(ISSUER));
provider.on('server_error', (ctx, error) => console.error(error));
provider.listen(Number(PORT), '127.0.0.1');
