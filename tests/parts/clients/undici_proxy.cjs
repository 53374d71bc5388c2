// Preloaded where Node's fetch doesn't look at the proxy variables by itself: undici's agent does.
const { EnvHttpProxyAgent, setGlobalDispatcher } = require("undici");

setGlobalDispatcher(new EnvHttpProxyAgent());
