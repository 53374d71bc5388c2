// An OAuth issuer for tests: the npm package oidc-provider on a free port of loopback, with clients in memory.
//
//   node issuer.mjs NODE_MODULES 
//
// The first line that it reads is {trusted: JWK (whose tokens it takes), client: JWK (of the client that signs)}. It
// says {"issuer": URL, "key": JWK} once it serves. Then it may be told {jag: URL (the issuer that it gives assertions
// for)}, and stops with the end of its input.

import { createHash, createPublicKey, generateKeyPairSync, randomUUID, sign, verify } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const { Provider, errors } = await import(pathToFileURL(join(process.argv[2], 'oidc-provider/lib/index.js')));
const lines = createInterface({ input: process.stdin });
const { trusted, client } = await new Promise((resolve) => lines.once('line', (line) => resolve(JSON.parse(line))));
let jag;
lines.on('line', (line) => { ({ jag } = JSON.parse(line)); });
lines.on('close', () => process.exit(0));

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const ID_JAG = 'urn:ietf:params:oauth:token-type:id-jag';

const own = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const common = {
  redirect_uris: [],
  response_types: [],
  grant_types: ['client_credentials', EXCHANGE, JWT_BEARER],
  scope: 'read write',
};
const provider = new Provider(issuer, {
  clients: [
    { ...common, client_id: 'secret', client_secret: 's3cret' },
    { ...common, client_id: 'post', client_secret: 's3cret', token_endpoint_auth_method: 'client_secret_post' },
    {
      ...common,
      client_id: 'signs',
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: client.kty === 'RSA' ? 'RS256' : 'ES256',
      jwks: { keys: [client] },
    },
    { ...common, client_id: 'bound', client_secret: 's3cret', dpop_bound_access_tokens: true },
    { ...common, client_id: 'origin', client_secret: 'origin', grant_types: [] },
  ],
  scopes: ['read', 'write'],
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
  ttl: { ClientCredentials: 300 },
  extraTokenClaims: (ctx) => (ctx.state.subject ? { sub: ctx.state.subject } : undefined),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: (ctx, asks) => asks.clientId === 'origin' },
    revocation: { enabled: true, allowedPolicy: (ctx, asks, token) => asks.clientId === token.clientId },
    dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 7), requireNonce: () => true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: 'read write',
        audience: resource,
        accessTokenFormat: 'opaque',
        accessTokenTTL: 300,
      }),
    },
  },
});

// The signature of a token by this key, and what it says.
function verified(token, jwk) {
  const [header, claims, signature] = token.split('.');
  const key = { key: createPublicKey({ key: jwk, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
  if (!verify('sha256', Buffer.from(`${header}.${claims}`), key, Buffer.from(signature, 'base64url'))) {
    throw new errors.InvalidGrant('the signature does not verify');
  }
  const read = (part) => JSON.parse(Buffer.from(part, 'base64url'));
  const said = read(claims);
  if (!(said.exp > Date.now() / 1000)) throw new errors.InvalidGrant('the token has expired');
  return { header: read(header), claims: said };
}

async function give(ctx, subject) {
  const { client, params } = ctx.oidc;
  const token = new provider.ClientCredentials({ client, scope: params.scope });
  ctx.state.subject = subject;
  token.resourceServer = new provider.ResourceServer(params.resource ?? params.audience, {
    scope: 'read write',
    audience: params.resource ?? params.audience,
    accessTokenFormat: 'opaque',
    accessTokenTTL: 300,
  });
  return {
    access_token: await token.save(),
    token_type: 'Bearer',
    expires_in: token.expiration,
    scope: token.scope,
  };
}

provider.registerGrantType(EXCHANGE, async (ctx) => {
  const { client, params } = ctx.oidc;
  const { claims } = verified(params.subject_token, trusted);
  if (claims.aud !== issuer) throw new errors.InvalidGrant('the subject token is for somebody else');
  if (params.requested_token_type === ID_JAG) {
    if (params.audience !== jag) throw new errors.InvalidTarget('no such issuer');
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const now = Math.floor(Date.now() / 1000);
    const assertion = `${part({ typ: 'oauth-id-jag+jwt', alg: 'ES256' })}.${part({
      iss: issuer, sub: claims.sub, aud: jag, client_id: 'secret', jti: randomUUID(), iat: now, exp: now + 300,
      resource: params.resource, scope: params.scope,
    })}`;
    const key = { key: own.privateKey, dsaEncoding: 'ieee-p1363' };
    const signature = sign('sha256', Buffer.from(assertion), key).toString('base64url');
    const issued = { issued_token_type: ID_JAG, token_type: 'N_A', expires_in: 300, scope: params.scope };
    ctx.body = { access_token: `${assertion}.${signature}`, ...issued };
    return;
  }
  ctx.body = {
    ...await give(ctx, claims.sub),
    issued_token_type: ACCESS_TOKEN,
    // What a careless issuer adds.
    refresh_token: createHash('sha256').update(randomUUID()).digest('base64url'),
  };
}, ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'audience', 'resource', 'scope',
  'requested_token_type']);

provider.registerGrantType(JWT_BEARER, async (ctx) => {
  const { client, params } = ctx.oidc;
  const { header, claims } = verified(params.assertion, trusted);
  if (claims.aud !== issuer) throw new errors.InvalidGrant('the assertion is for somebody else');
  if (header.typ === 'oauth-id-jag+jwt') {
    if (claims.client_id !== client.clientId) throw new errors.InvalidGrant('the assertion is for another client');
    params.resource = claims.resource;
  }
  ctx.body = await give(ctx, claims.sub);
}, ['assertion', 'resource', 'audience', 'scope']);

provider.on('server_error', (ctx, error) => console.error(error));
server.on('request', provider.callback());
console.log(JSON.stringify({ issuer, key: own.publicKey.export({ format: 'jwk' }) }));
