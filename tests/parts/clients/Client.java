import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;

/** java.net.http.HttpClient, which speaks HTTP/2 where it can: Client.java ORIGIN UNLISTED */
public class Client {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        String origin = arguments[0];
        HttpResponse<String> answer = send(request(origin + "/hello").GET());
        System.out.println("GET " + answer.statusCode() + " " + answer.body());
        answer = send(request(origin + "/files").POST(BodyPublishers.ofString("hello")));
        System.out.println("POST " + answer.statusCode() + " " + answer.body());
        var events = CLIENT.send(request(origin + "/events").GET().build(), BodyHandlers.ofLines());
        System.out.println("STREAM " + events.body().filter(line -> line.startsWith("data: ")).count());
        answer = send(request(origin + "/readonly").POST(BodyPublishers.ofString("hello")));
        String reason = answer.body().replaceAll(".*\"reason\":\"([a-z_]*)\".*", "$1");
        System.out.println("DENIED " + answer.statusCode() + " " + reason);
        System.out.println("UNLISTED " + unlisted(arguments[1]));
    }

    private static String unlisted(String url) throws InterruptedException {
        try {
            send(request(url).GET());
            return "reached";
        } catch (IOException refused) {
            return "refused";
        }
    }

    private static HttpRequest.Builder request(String url) {
        return HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(20));
    }

    private static HttpResponse<String> send(HttpRequest.Builder request) throws IOException, InterruptedException {
        return CLIENT.send(request.build(), BodyHandlers.ofString());
    }
}
