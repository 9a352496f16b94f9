import java.io.InputStream;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.agrona.DirectBuffer;
import org.agrona.concurrent.UnsafeBuffer;
import uk.co.real_logic.sbe.PrimitiveType;
import uk.co.real_logic.sbe.PrimitiveValue;
import uk.co.real_logic.sbe.ir.Encoding;
import uk.co.real_logic.sbe.ir.Ir;
import uk.co.real_logic.sbe.ir.Token;
import uk.co.real_logic.sbe.otf.AbstractTokenListener;
import uk.co.real_logic.sbe.otf.OtfHeaderDecoder;
import uk.co.real_logic.sbe.otf.OtfMessageDecoder;
import uk.co.real_logic.sbe.otf.Types;
import uk.co.real_logic.sbe.xml.IrGenerator;
import uk.co.real_logic.sbe.xml.ParserOptions;
import uk.co.real_logic.sbe.xml.XmlSchemaParser;

/**
 * Writes down every field of a message, one per line, as sbe-tool's own decoder finds it. Absent optional
 * values and enum nulls are `null`, enums their schema names, text is in quotes, raw bytes are in hex.
 */
final class Dump extends AbstractTokenListener
{
    private static final Map<String, Integer> HEADERLESS = Map.of("ShmRegionSuperblock", 50, "SlotHeader", 51);
    private static final int WIRE_SCHEMA = 900;

    private final Map<Integer, Ir> schemas = new HashMap<>();
    private final Deque<String> path = new ArrayDeque<>();
    private StringBuilder out;

    void addSchema(final InputStream xml)
    {
        try
        {
            final Ir ir = new IrGenerator().generate(
                XmlSchemaParser.parse(xml, ParserOptions.builder().stopOnError(true).build()));
            schemas.put(ir.id(), ir);
        }
        catch (final Exception ex)
        {
            throw new IllegalStateException("schema is not valid", ex);
        }
    }

    void dump(final String name, final byte[] bytes, final StringBuilder text)
    {
        out = text;
        out.append("== ").append(name).append('\n');
        final DirectBuffer buffer = new UnsafeBuffer(bytes);
        final Integer headerless = HEADERLESS.get(name.substring(0, name.indexOf('.')));
        final int end;
        if (headerless == null)
        {
            end = message(buffer, 0);
        }
        else
        {
            final Ir ir = schemas.get(WIRE_SCHEMA);
            end = body(ir, headerless, ir.getMessage(headerless).get(0).encodedLength(), buffer, 0);
        }
        if (end != bytes.length)
        {
            throw new IllegalStateException(name + ": decoded " + end + " of " + bytes.length + " bytes");
        }
    }

    private int message(final DirectBuffer buffer, final int offset)
    {
        final Ir any = schemas.get(WIRE_SCHEMA);
        final OtfHeaderDecoder header = new OtfHeaderDecoder(any.headerStructure());
        final Ir ir = schemas.get(header.getSchemaId(buffer, offset));
        final int template = header.getTemplateId(buffer, offset);
        final int blockLength = header.getBlockLength(buffer, offset);
        line("header").append(header.getSchemaId(buffer, offset)).append('/').append(template)
            .append('/').append(header.getSchemaVersion(buffer, offset)).append('/').append(blockLength)
            .append('\n');
        return body(ir, template, blockLength, buffer, offset + header.encodedLength());
    }

    private int body(
        final Ir ir, final int template, final int blockLength, final DirectBuffer buffer, final int offset)
    {
        final List<Token> tokens = ir.getMessage(template);
        return OtfMessageDecoder.decode(buffer, offset, 1, blockLength, tokens, this);
    }

    private StringBuilder line(final String field)
    {
        path.descendingIterator().forEachRemaining((part) -> out.append(part).append('.'));
        return out.append(field).append(" = ");
    }

    @Override
    public void onEncoding(
        final Token field, final DirectBuffer buffer, final int index, final Token type, final int version)
    {
        if (type.isConstantEncoding())
        {
            return;
        }
        final Encoding encoding = type.encoding();
        final PrimitiveType primitive = encoding.primitiveType();
        final StringBuilder line = line(field.name());
        for (int i = 0; i < type.arrayLength(); i++)
        {
            final long value = Types.getLong(buffer, index + i * primitive.size(), encoding);
            line.append(i == 0 ? "" : ",").append(number(type, encoding, primitive, value));
        }
        line.append('\n');
    }

    private static String number(
        final Token type, final Encoding encoding, final PrimitiveType primitive, final long value)
    {
        final PrimitiveValue none = encoding.applicableNullValue();
        if (type.isOptionalEncoding() && value == none.longValue())
        {
            return "null";
        }
        return primitive == PrimitiveType.UINT64 ? Long.toUnsignedString(value) : Long.toString(value);
    }

    @Override
    public void onEnum(
        final Token field, final DirectBuffer buffer, final int index, final List<Token> tokens,
        final int from, final int to, final int version)
    {
        final Encoding encoding = tokens.get(from + 1).encoding();
        final long value = Types.getLong(buffer, index, encoding);
        String name = value == encoding.primitiveType().nullValue().longValue() ? "null" : Long.toString(value);
        for (int i = from + 1; i < to; i++)
        {
            if (tokens.get(i).encoding().constValue().longValue() == value)
            {
                name = tokens.get(i).name();
            }
        }
        line(field.name()).append(name).append('\n');
    }

    @Override
    public void onVarData(
        final Token field, final DirectBuffer buffer, final int index, final int length, final Token type)
    {
        if (field.name().equals("headerBytes"))
        {
            line(field.name()).append(length).append(" bytes\n");
            path.push(field.name());
            final int end = message(buffer, index);
            path.pop();
            if (end != index + length)
            {
                throw new IllegalStateException("the embedded message has another length than headerBytes");
            }
            return;
        }
        final byte[] bytes = new byte[length];
        buffer.getBytes(index, bytes);
        if (type.encoding().characterEncoding() == null)
        {
            line(field.name()).append(HexFormat.of().formatHex(bytes)).append('\n');
        }
        else
        {
            line(field.name()).append('"').append(text(bytes)).append("\"\n");
        }
    }

    private static String text(final byte[] bytes)
    {
        final StringBuilder text = new StringBuilder();
        for (final byte b : bytes)
        {
            final boolean isPlain = b >= ' ' && b <= '~' && b != '"' && b != '\\';
            text.append(isPlain ? Character.toString(b) : String.format("\\x%02x", b));
        }
        return text.toString();
    }

    @Override
    public void onGroupHeader(final Token token, final int numInGroup)
    {
        line(token.name()).append(numInGroup).append(" entries\n");
    }

    @Override
    public void onBeginGroup(final Token token, final int index, final int numInGroup)
    {
        path.push(token.name() + "[" + index + "]");
    }

    @Override
    public void onEndGroup(final Token token, final int index, final int numInGroup)
    {
        path.pop();
    }
}
