package agentguard;

import com.fasterxml.jackson.core.type.TypeReference;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import org.keycloak.models.ClientSessionContext;
import org.keycloak.models.KeycloakSession;
import org.keycloak.models.ProtocolMapperModel;
import org.keycloak.models.UserSessionModel;
import org.keycloak.protocol.oidc.mappers.AbstractOIDCProtocolMapper;
import org.keycloak.protocol.oidc.mappers.OIDCAccessTokenMapper;
import org.keycloak.provider.ProviderConfigProperty;
import org.keycloak.representations.AccessToken;
import org.keycloak.util.JsonSerialization;

/**
 * A protocol mapper for Keycloak 26: it copies the one authorization detail of type agentguard_tool_call from a
 * request for a token into the access token (RFC 9396 section 9.1). So the token is for that one call.
 */
public class CallDetailMapper extends AbstractOIDCProtocolMapper implements OIDCAccessTokenMapper {
    private static final String NAME = "authorization_details";
    private static final TypeReference<List<Map<String, Object>>> DETAILS = new TypeReference<>() {};

    @Override
    public AccessToken transformAccessToken(AccessToken token, ProtocolMapperModel model, KeycloakSession session,
            UserSessionModel userSession, ClientSessionContext client) {
        var request = session.getContext().getHttpRequest();
        String text = request == null ? null : request.getDecodedFormParameters().getFirst(NAME);
        if (text == null) return token; // the resource refuses a token that names no call
        List<Map<String, Object>> details;
        try {
            details = JsonSerialization.readValue(text, DETAILS);
        } catch (IOException error) {
            throw new IllegalArgumentException(NAME, error);
        }
        if (details.size() == 1 && "agentguard_tool_call".equals(details.get(0).get("type"))) {
            token.getOtherClaims().put(NAME, details);
        }
        return token;
    }

    @Override public String getId() { return "agentguard-call-detail"; }
    @Override public String getDisplayType() { return "agentguard: the call that a token is for"; }
    @Override public String getDisplayCategory() { return TOKEN_MAPPER_CATEGORY; }
    @Override public String getHelpText() { return "Binds an access token to one exact tool call."; }
    @Override public List<ProviderConfigProperty> getConfigProperties() { return List.of(); }
}
