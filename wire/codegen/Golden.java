import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;

/**
 * Makes golden vectors with the codecs that sbe-tool generates, and dumps the fields of vectors with the
 * decoder that sbe-tool ships. How to run it: README.md in this directory.
 *
 * <pre>
 * java Golden encode OUT.hex
 * java Golden dump SCHEMA_DIR IN.hex OUT.fields
 * </pre>
 *
 * A hex file has one vector per line: its name, a space, its bytes. Everything before the first dot of the
 * name is the message. The superblock and the slot lie in memory without a message header.
 */
public final class Golden
{
    private Golden()
    {
    }

    public static void main(final String[] args) throws IOException
    {
        final String verb = args.length == 0 ? "" : args[0];
        if (verb.equals("encode") && args.length == 2)
        {
            final List<String> lines = new ArrayList<>();
            new Vectors(lines).encodeAll();
            Files.write(Path.of(args[1]), lines);
        }
        else if (verb.equals("dump") && args.length == 4)
        {
            dump(Path.of(args[1]), Path.of(args[2]), Path.of(args[3]));
        }
        else
        {
            throw new IllegalArgumentException("usage: Golden encode OUT | Golden dump SCHEMA_DIR IN OUT");
        }
    }

    private static void dump(final Path schemas, final Path in, final Path out) throws IOException
    {
        final Dump dump = new Dump();
        for (final String schema : List.of("wire.xml", "driver.xml", "discovery.xml"))
        {
            try (InputStream xml = new BufferedInputStream(Files.newInputStream(schemas.resolve(schema))))
            {
                dump.addSchema(xml);
            }
        }
        final StringBuilder text = new StringBuilder();
        for (final String line : Files.readAllLines(in, StandardCharsets.US_ASCII))
        {
            final String[] parts = line.split(" ");
            dump.dump(parts[0], HexFormat.of().parseHex(parts[1]), text);
        }
        Files.writeString(out, text);
    }
}
